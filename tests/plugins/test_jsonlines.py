"""The sink that writes JSON lines."""

import json
import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from plugins.sinks.jsonlines import JSONLinesSink, audit_sinks

EVENT = {"action": "read", "uri": "in.gov.x-INCOM-1", "title": "आय\nप्रमाण", "principal": {"kind": "ticket"}}


def test_one_event_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    sink = JSONLinesSink(str(file))
    for number in range(3):
        sink.emit({**EVENT, "n": number})
    lines = file.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [{**EVENT, "n": number} for number in range(3)]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_rotated_file_is_begun_anew(tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    sink = JSONLinesSink(str(file))
    sink.emit({"n": 1})
    file.rename(tmp_path / "audit.jsonl.1")
    sink.emit({"n": 2})
    assert file.read_bytes() == b'{"n":2}\n'
    assert (tmp_path / "audit.jsonl.1").read_bytes() == b'{"n":1}\n'


def test_a_torn_line_does_not_spoil_the_next(tmp_path: Path) -> None:
    """A limit on the file's size tears a line; the one after the limit is lifted stands on its own."""
    file = tmp_path / "audit.jsonl"
    sink = JSONLinesSink(str(file))
    sink.emit({"n": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))
    try:
        for number in (2, 3):
            with pytest.raises(OSError):
                sink.emit({"n": number, "long": "x" * 50})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    sink.emit({"n": 4})
    sink.emit({"n": 5})
    lines = file.read_bytes().split(b"\n")
    assert lines[0] == b'{"n":1}'
    assert lines[-3:] == [b'{"n":4}', b'{"n":5}', b""]


def test_processes_share_a_file(tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    script = (
        "import sys; from plugins.sinks.jsonlines import JSONLinesSink; s = JSONLinesSink(sys.argv[1]);"
        "[s.emit({'who': sys.argv[2], 'n': n, 'pad': 'x' * 3000}) for n in range(200)]"
    )
    running = [subprocess.Popen([sys.executable, "-c", script, str(file), who]) for who in "ab"]
    assert [process.wait(30) for process in running] == [0, 0]
    events = [json.loads(line) for line in file.read_bytes().splitlines()]
    for who in "ab":
        assert [event["n"] for event in events if event["who"] == who] == list(range(200))


def test_standard_output_stays_open() -> None:
    script = (
        "from plugins.sinks.jsonlines import audit_sinks; s, = audit_sinks({'file': '-'});"
        "s.emit({'n': 1}); s.emit({'n': 2}); print('end')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, timeout=30)
    assert done.stdout == b'{"n":1}\n{"n":2}\nend\n'


@pytest.mark.parametrize("file", ["audit.jsonl", "", 7, None, "./x"])
def test_a_wrong_path_is_named(file: object) -> None:
    with pytest.raises(ValueError, match=r"^file: "):
        audit_sinks({"file": file})


def test_options() -> None:
    assert audit_sinks({}) is None
    with pytest.raises(ValueError, match=r"^path: "):
        audit_sinks({"file": os.devnull, "path": "x"})
