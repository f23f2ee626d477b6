"""The command run in this process, and a node made by it."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from node.cli import run


@dataclass(frozen=True)
class Ran:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Command = Callable[..., Ran]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    # Loggers keep the stream they first meet; here that would be one that pytest closes.
    monkeypatch.setattr("node.cli.options.configure_logs", lambda level: None)
    monkeypatch.setattr("node.serving.configure_logs", lambda level: None)

    def call(*arguments: object) -> Ran:
        capsys.readouterr()
        status = run([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return Ran(status, out, err)

    return call


@pytest.fixture
def node_folder(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "node"
    made = command("init", folder, "--json")
    assert made.status == 0, made.err
    monkeypatch.setenv("LOCKER_NODE_FOLDER", str(folder))
    return folder


@pytest.fixture
def incoming(tmp_path: Path) -> Path:
    folder = tmp_path / "incoming"
    for number in range(3):
        file = folder / "in.gov.x" / "INCOM" / f"00{number}.pdf"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"%PDF-1.7\n" + bytes([number]))
    return folder
