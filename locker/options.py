"""What every command of the locker has: its folder, ``--json``, and faults told in one sentence."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from locker.config import SettingsRefused
from locker.db.migration import SchemaRefused
from locker.db.session import NotDurable
from locker.keys import KeysRefused
from locker.roots import RootUnusable
from locker.rotation import CannotRotate
from node.contract.holders import InvalidHolder
from node.contract.problems import ProblemError

_FAULTS = (
    SettingsRefused, KeysRefused, CannotRotate, RootUnusable, SchemaRefused, NotDurable, ProblemError, InvalidHolder,
    ValueError, OSError,
)  # fmt: skip


class Output:
    """Prints a command's result for a person or, with ``--json``, for a program."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json

    def show(self, document: Any, lines: Callable[[], Iterator[str]]) -> None:
        """Print one JSON value, or the lines."""
        if self.as_json:
            click.echo(json.dumps(document, ensure_ascii=False))
        else:
            for line in lines():
                click.echo(line)


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command ``--folder`` and ``--json``."""
    command = click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)
    return click.option(
        "--folder",
        type=click.Path(path_type=Path),
        default=Path(),
        envvar="LOCKER_FOLDER",
        show_envvar=True,
        help="The locker's folder; default: here.",
    )(command)


@contextmanager
def plain_faults() -> Iterator[None]:
    """End with one sentence and status 1 for what an operator can put right."""
    try:
        yield
    except _FAULTS as error:
        text = error.detail or error.title if isinstance(error, ProblemError) else str(error)
        raise click.ClickException(text) from error
