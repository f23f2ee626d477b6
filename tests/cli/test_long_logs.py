"""Exports of a long log: whole, in order, and in the memory of a short one's."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from node.contract.identifiers import uuid7
from node.contract.times import now_us
from node.db.audit_log import append_events
from node.services.audit import encode_event
from node.wiring import build_node

MOST_GROWTH = 6 * 1024  # KiB; the rows of the ordinary tier take more than that when they are kept
EXPORT = """
import re, sys
from node.cli import run
status = run(sys.argv[1:])
# Not getrusage: its peak is also that of the process which started this one.
print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
sys.exit(status)
"""
REFUSED = {
    "phase": "attempt", "action": "read", "outcome": "refused", "reason": "expired", "uri": "in.gov.x-INCOM-1",
    "client_id": "bank", "source": "192.0.2.1", "request_id": "r" * 40, "detail": "filled " * 20,
}  # fmt: skip


def fill(folder: Path, rows: int) -> None:
    node = build_node(folder)
    for _ in range(rows // 1000):
        with node.database.writing() as connection:
            append_events(connection, [encode_event({**REFUSED, "read_id": uuid7()}, now_us()) for _ in range(1000)])
    node.close()


def export(folder: Path, form: str, output: Path) -> tuple[int, int]:
    """Export the log in a process of its own and return how many rows, and the most memory that it had, in KiB."""
    command = [sys.executable, "-c", EXPORT, "log", "export", "--format", form, "--output", str(output), "--json"]
    ran = subprocess.run([*command, "--folder", str(folder)], check=True, capture_output=True, text=True)
    told, _, memory = ran.stdout.strip().rpartition("\n")
    return json.loads(told)["rows"], int(memory)


@pytest.mark.parametrize("form", ["ndjson", "csv", "json"])
def test_a_long_log_is_exported_whole_in_the_memory_of_a_short_one(
    node_folder: Path, command: Callable[..., Any], tmp_path: Path, soak: Any, form: str
) -> None:
    short, before = export(node_folder, form, tmp_path / "short")
    rows = soak.count(small=8_000, full=300_000)
    fill(node_folder, rows)
    command("log", "query", "--limit", 1)  # gives the rows their places
    long, after = export(node_folder, form, tmp_path / "long")
    assert long - short >= rows
    text = (tmp_path / "long").read_text("utf-8")
    assert text.count("in.gov.x-INCOM-1") >= rows
    if form == "ndjson":
        positions = [json.loads(line)["position"] for line in text.splitlines()]
        assert positions == list(range(1, len(positions) + 1))
    assert after < before + MOST_GROWTH


def test_an_export_that_fails_leaves_no_part_of_a_file(
    node_folder: Path, command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("node.cli.logs._write", full)
    told = command("log", "export", "--output", tmp_path / "log.ndjson")
    assert told.status != 0 and "No space left" in told.err
    assert not (tmp_path / "log.ndjson").exists()
