"""The commands are imported when they are run, and an operator does not wait for libraries that a command has no use for."""

import importlib
import subprocess
from pathlib import Path

import click
import pytest

from node.cli import COMMANDS, root

LOADED = """
import sys
from node.cli import run
status = run(sys.argv[1:])
print(*sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
sys.exit(status)
"""


def loaded_by(python: str, *arguments: str) -> set[str]:
    done = subprocess.run([python, "-c", LOADED, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_a_commands_line_is_the_first_sentence_of_its_own_help(name: str) -> None:
    command = root.get_command(click.Context(root), name)
    assert command is not None and command.name == name
    assert COMMANDS[name][1] == command.get_short_help_str(300)


def test_every_command_of_the_package_is_listed() -> None:
    modules = {path.stem for path in Path("node/cli").glob("*.py")} - {"__init__"}
    found = {
        id(value)
        for name in modules
        for value in vars(importlib.import_module(f"node.cli.{name}")).values()
        if isinstance(value, click.Command)
    }
    inner = {
        id(command)
        for name in COMMANDS
        if isinstance(group := root.get_command(click.Context(root), name), click.Group)
        for command in group.commands.values()
    }
    assert found - inner == {id(root.get_command(click.Context(root), name)) for name in COMMANDS}


def test_the_list_of_commands_is_there_at_once(python: str) -> None:
    assert not loaded_by(python, "--help") & {"sqlalchemy", "pydantic", "structlog", "cryptography", "httpx"}


def test_a_command_that_serves_nobody_loads_no_server_and_no_client(python: str, node_folder: Path) -> None:
    loaded = loaded_by(python, "token", "list")
    assert "sqlalchemy" in loaded  # what is looked for is seen
    assert not loaded & {
        "alembic",
        "httpx",
        "connexion",
        "flask",
        "uvicorn",
        "prometheus_client",
        "apscheduler",
        "yaml",
    }


def test_a_name_that_is_no_command_is_told(command) -> None:
    refused = command("servo")
    assert (refused.status, refused.out) == (2, "")
    assert "servo" in refused.err
