"""Commands that are imported when they are run, so that nobody waits for the libraries of another command."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click


class LazyGroup(click.Group):
    """A group that knows of each command where it is, as ``module:name``, and its line of help; it lists them in that order."""

    def __init__(self, *arguments: Any, lazy: Mapping[str, tuple[str, str]], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return list(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None for a name that is none."""
        if cmd_name not in self._lazy:
            return None
        module, _, name = self._lazy[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing any."""
        width = formatter.width - 6 - max(map(len, self._lazy))
        lines = [
            (name, click.Command(name, help=text).get_short_help_str(width)) for name, (_, text) in self._lazy.items()
        ]
        with formatter.section("Commands"):
            formatter.write_dl(lines)
