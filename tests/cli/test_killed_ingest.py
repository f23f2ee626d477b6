"""An ingest that is killed again and again ends where one that was left alone ends."""

import hashlib
import os
import random
import signal
import sqlite3
import subprocess
import time
from pathlib import Path
from typing import Any

from drivers.newfile import TEMPORARY

COUNT = 150


def _ingest(python: str, folder: Path, incoming: Path) -> subprocess.Popen[bytes]:
    command = [python, "-c", "from node.cli import main; main()", "ingest", str(incoming), "--folder", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def _objects(folder: Path) -> list[Path]:
    return [path for path in (folder / "storage").rglob("*") if path.is_file() and not path.name.startswith(TEMPORARY)]


def _kill_after(process: subprocess.Popen[bytes], folder: Path, more: int) -> bool:
    """Kill an ingest once it has stored some objects more; False when it was done before."""
    wanted = len(_objects(folder)) + more
    while process.poll() is None and len(_objects(folder)) < wanted:
        time.sleep(0.002)
    if process.poll() is None:
        os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)
    return process.returncode == -signal.SIGKILL


def test_kills_leave_nothing_half_stored(
    command: Any, node_folder: Path, tmp_path: Path, python: str, soak: Any
) -> None:
    incoming = tmp_path / "many"
    contents = {}
    for number in range(COUNT):
        file = incoming / "in.gov.x" / "INCOM" / f"{number}.pdf"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"%PDF-1.7\n" + random.randbytes(5000))
        contents[f"in.gov.x-incom-{number}"] = hashlib.sha256(file.read_bytes()).hexdigest()
    kills = soak.count(small=3, full=40)
    killed = sum(
        _kill_after(_ingest(python, node_folder, incoming), node_folder, 1 + COUNT // (kills + 2)) for _ in range(kills)
    )
    assert killed >= 1, "no ingest was killed under way, so nothing was tested"
    assert command("ingest", incoming).status == 0
    assert command("ingest", incoming).out == f"new documents: 0, unchanged: {COUNT}\n"
    with sqlite3.connect(node_folder / "node.db") as database:
        rows = database.execute(
            "SELECT uri_key, sha256, object_key FROM document JOIN representation USING (document_id)"
        ).fetchall()
        logged = database.execute("SELECT count(*) FROM access_event").fetchone()[0]
    assert {uri: sha256 for uri, sha256, _ in rows} == contents
    assert (len(rows), logged) == (COUNT, COUNT)
    found = {str(path.relative_to(node_folder / "storage")): path for path in _objects(node_folder)}
    assert found.keys() == {key for _, _, key in rows}
    assert {hashlib.sha256(found[key].read_bytes()).hexdigest() == sha256 for _, sha256, key in rows} == {True}
    assert list((node_folder / "pending").glob("*.keys")) == []
