"""What strace saw, and whether a body byte left before the row of its read was on the disk. A function over a trace."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

CALLS = "fdatasync,fsync,pwrite64,pwritev,write,writev,sendto,sendmsg"
OPTIONS = ("-yy", "-ttt", "-s", "200000", "-e", f"trace={CALLS}", "-e", "signal=none")

_LINE = re.compile(r"(\d+) +[\d.]+ (.*)")
_RESUMED = re.compile(r"<\.\.\. (\w+) resumed>(.*)")
_BEGUN = re.compile(r"(\w+)\((?:(\d+)<([\w-]+:\[[^\]]*\]|[^>]*)>)?(.*)")
_SYNCS = ("fdatasync", "fsync")
_UNFINISHED = " <unfinished ...>"


class Incomplete(Exception):
    """The trace does not show what is to be judged."""


@dataclass
class Call:
    """One system call: the number of the line at which it began, and of the line at which it returned (or never)."""

    name: str
    file: str
    arguments: str
    begun: int
    returned: float = float("inf")
    good: bool = False


@dataclass(frozen=True)
class TracedRead:
    """A read to be judged: a word that is in its log row, and one that is all over its document.

    The row has the word twice, so that a page boundary of the database's log can cut only one of them.
    """

    row_word: str
    body_word: str


def read_trace(file: Path) -> list[Call]:
    """Read strace's output.

    strace handles one stop of a traced thread at a time, and a thread goes on only when its stop was handled. So what one
    call caused in another thread or process stands below it, and the order of lines is the order of causes.
    """
    calls: list[Call] = []
    open_calls: dict[str, Call] = {}
    for number, line in enumerate(file.read_text(errors="replace").splitlines()):
        if not (found := _LINE.fullmatch(line)):
            continue
        thread, rest = found.groups()
        if resumed := _RESUMED.match(rest):
            _end(open_calls.pop(thread, None), number, resumed[2])
        elif begun := _BEGUN.match(rest):
            call = Call(begun[1], begun[3] or "", begun[4], number)
            calls.append(call)
            if rest.endswith(_UNFINISHED):
                open_calls[thread] = call
            else:
                _end(call, number, rest)
    return calls


def _end(call: Call | None, number: int, rest: str) -> None:
    if call is not None:
        call.returned = number
        call.good = re.search(r"\) += \d", rest) is not None


def early_bodies(calls: Sequence[Call], reads: Iterable[TracedRead]) -> list[str]:
    """Return a sentence for each read of which a body byte left before its row was on the disk.

    The row is on the disk when the database's write-ahead log was written with it, and with what came after the node's COMMIT,
    and a later sync of that log has returned without an error. Raises Incomplete when a read's body is not in the trace.
    """
    return [sentence for read in reads for sentence in _judge(calls, read)]


def _judge(calls: Sequence[Call], read: TracedRead) -> Iterator[str]:
    bodies = [call for call in calls if call.file.startswith("TCP") and read.body_word in call.arguments]
    if not bodies:
        raise Incomplete(f"no body of {read.row_word}")
    first = min(call.begun for call in bodies)
    logs = [call for call in calls if _is_log(call.file)]
    written = [call for call in logs if call.name not in _SYNCS and read.row_word in call.arguments]
    if not written:
        yield f"{read.row_word}: its row was never written"
        return
    committed = _committed(calls, read.row_word)
    later = [call for call in logs if call.name not in _SYNCS and call.begun >= max(committed, written[0].begun)]
    covered = min((call.returned for call in later), default=float("inf"))
    synced = [
        call for call in logs if call.name in _SYNCS and call.good and call.begun > covered and call.returned < first
    ]
    if not synced:
        yield f"{read.row_word}: its body left at line {first}, no sync had covered its row"


def _is_log(file: str) -> bool:
    return file.endswith("-wal") or "/pg_wal/" in file


def _committed(calls: Sequence[Call], row_word: str) -> float:
    """Return the line at which the node asked its server to commit the row; 0 for a database without a server."""
    forms = (row_word, row_word.encode().hex())
    sends = [call for call in calls if call.name == "sendto" and call.file.startswith("TCP")]
    for insert in sends:
        if any(form in insert.arguments for form in forms):
            commits = (call.begun for call in sends if call.file == insert.file and "COMMIT" in call.arguments)
            if found := next((line for line in commits if line > insert.begun), 0):
                return found
    return 0
