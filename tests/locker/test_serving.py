"""A locker's real processes: started, stopped in order, and there again after the database was away."""

import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from bench.postgresql import running_postgresql
from tests.durability.processes import away, status_of, wait_for
from tests.locker.commands import run


@contextmanager
def serving(folder: Path, ends: set[int]) -> Iterator[tuple[str, psutil.Process]]:
    """Serve a locker, give its URL and its parent process, and require that it stops in order with its children's ``ends``."""
    command = [sys.executable, "-c", "from locker.cli import main; main()", "serve", "--folder", str(folder), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ}) as process:
        assert process.stdout is not None
        try:
            url = json.loads(process.stdout.readline())["urls"][0]
            wait_for(lambda: status_of(f"{url}/readyz") == 200, 30)
            yield url, psutil.Process(process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    lines = [json.loads(line) for line in errors.decode().splitlines()]
    assert {line["status"] for line in lines if line["event"] == "child ended"} == ends, lines


def page_number(url: str) -> int:
    payload = httpx.get(f"{url}/v1/revocations/latest").text.split(".")[1]
    return int(json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["seq"])


def test_serve_runs_web_and_jobs_and_stops_in_order(folder: Path) -> None:
    settings = folder / "locker.toml"
    settings.write_text(settings.read_text() + "revocation_freshness_seconds = 10\n")
    with serving(folder, {0}) as (url, _):
        assert httpx.get(f"{url}/readyz").json()["checks"]
        before = page_number(url)
        wait_for(lambda: page_number(url) > before)  # the job process publishes the next page in good time


def test_processes_that_start_while_the_database_is_away_refuse_until_it_is_back(tmp_path: Path) -> None:
    folder = tmp_path / "locker"
    with running_postgresql() as server:
        run("init", str(folder), "--port", "0", "--database-url", server.create_database())
        with serving(folder, {-signal.SIGKILL, 0}) as (url, parent):
            with away(server):
                killed = parent.children()
                for child in killed:
                    child.kill()
                wait_for(lambda: status_of(f"{url}/healthz") == 200, 30)
                assert not {child.pid for child in killed} & {child.pid for child in parent.children()}
                assert status_of(f"{url}/readyz") == 503
                assert status_of(f"{url}/v1/issuers") == 503
            wait_for(lambda: status_of(f"{url}/readyz") == 200)
            assert status_of(f"{url}/v1/issuers") == 200
