"""An audit sink that appends each access event to a file, or standard output, as one line of JSON."""

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from node.contract.canonical import canonical_json
from node.hooks.specs import hookimpl
from node.hooks.types import AuditSink

STANDARD_OUTPUT = "-"


class JSONLinesSink:
    """Appends to a file that it opens anew for each event, so that a log rotation needs no signal."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._torn = False

    def emit(self, event: Mapping[str, object]) -> None:
        """Append one event; raises OSError."""
        line = canonical_json(dict(event)) + b"\n"
        # After half a line, because a disk was full, the next one begins on a line of its own.
        self._append(b"\n" + line if self._torn else line)

    def _append(self, line: bytes) -> None:
        fd = self._open()
        left = line
        try:
            # Several processes append to one file: a line goes in one call wherever the system takes it so.
            while left:
                left = left[os.write(fd, left) :]
        finally:
            self._torn = bool(left) and (self._torn or left != line)
            if self._file != STANDARD_OUTPUT:
                os.close(fd)

    def _open(self) -> int:
        if self._file == STANDARD_OUTPUT:
            return sys.stdout.fileno()
        return os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


@hookimpl
def audit_sinks(options: Mapping[str, object]) -> Iterable[AuditSink] | None:
    """Return a sink when the settings have ``[plugins.jsonlines]`` with ``file``: an absolute path, or ``-``."""
    if not options:
        return None
    unknown = sorted(set(options) - {"file"})
    if unknown:
        raise ValueError(f"{unknown[0]}: there is no such option; the only one is file")
    file = options["file"]
    if not isinstance(file, str) or not (file == STANDARD_OUTPUT or Path(file).is_absolute()):
        raise ValueError("file: write an absolute path, or - for standard output")
    return [JSONLinesSink(file)]
