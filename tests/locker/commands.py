"""The ``locker`` command, as an operator types it."""

import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

from click.testing import CliRunner

from locker.cli import main


def run(*arguments: str, code: int = 0, given: str | None = None) -> str:
    """Run a command that must end with ``code``, and return what it printed."""
    # Loggers keep the level and stream that they first meet: this command's would be those of all tests after it.
    with patch("locker.cli.configure_logging"):
        result = CliRunner().invoke(main, list(arguments), input=given, catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.output


def asked(folder: Path, *arguments: str, **more: Any) -> Any:
    """Run a command on a locker's folder and return the JSON that it printed."""
    return json.loads(run(*arguments, "--folder", str(folder), "--json", **more))
