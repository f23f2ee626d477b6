"""Files with secrets: whole, private, and the service's own whoever writes them."""

import os
import stat
import subprocess
import sys

import pytest

from node.web.private_files import private_folder, write_private


@pytest.fixture
def given_to(monkeypatch):
    """What root gives to whom; only root could do it."""
    given = []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    for name in ("fchown", "lchown"):
        monkeypatch.setattr(os, name, lambda target, user, group: given.append((target, user, group)))
    return given


def test_what_root_writes_belongs_to_the_owner_of_the_folder(tmp_path, given_to):
    """Else the service could not read its own keys, nor the list of revoked ones, after a command under sudo."""
    owner = tmp_path.stat()
    write_private(tmp_path / "root.json", b"{}")
    private_folder(tmp_path / "old")
    private_folder(tmp_path / "old")
    assert [row[1:] for row in given_to] == [(owner.st_uid, owner.st_gid)] * 3
    assert given_to[1][0] == given_to[2][0] == tmp_path / "old"
    assert stat.S_IMODE((tmp_path / "root.json").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "old").stat().st_mode) == 0o700


def test_others_give_nothing_away(tmp_path, given_to, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    write_private(tmp_path / "a", b"a")
    private_folder(tmp_path / "b")
    assert given_to == []


@pytest.mark.parametrize("program", ["node.cli", "locker.cli"])
def test_all_that_a_command_makes_is_closed_to_others(tmp_path, program):
    folder = tmp_path / "made"
    command = [sys.executable, "-c", f"from {program} import main; main()", "init", str(folder)]
    subprocess.run(command, check=True, capture_output=True, umask=0o022)
    made = [folder, *folder.rglob("*")]
    assert any(path.suffix == ".db" for path in made)
    assert [path for path in made if path.stat().st_mode & 0o077] == []
