"""The processes of ``serve``: the parent that binds and supervises, the web processes, the job process."""

import fcntl
import gc
import os
import socket
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

import structlog
from sqlalchemy.exc import SQLAlchemyError

from node.config import SETTINGS_FILE, Settings, SettingsError, require_files
from node.contract.identifiers import uuid7
from node.contract.times import now_us
from node.db import schema
from node.db.processes import mark_ended, mark_run_ended
from node.logs import configure_logs
from node.web.processes import ChildSpec, Supervisor, bind, child_sockets, end_with_parent
from node.web.production import require_fit
from node.wiring import Node, build_node

if TYPE_CHECKING:
    from node.web.server import ServerSettings

LOCK_FILE = "serve.lock"
SWITCH_INTERVAL_SECONDS = 0.001

log = structlog.get_logger()


class AlreadyServing(Exception):
    """Another ``serve`` runs on this folder."""


def serve(folder: Path, announce: Callable[[list[str]], None] | None = None) -> int:
    """Serve a node until SIGTERM or SIGINT and return the exit status.

    Raises SettingsError, KeyFault, NotDurable, SchemaOutdated, AlreadyServing, or OSError when the address is taken: nothing is
    served by a node that is not as it should be.
    """
    folder = folder.absolute()
    node = build_node(folder)
    settings = node.settings
    configure_logs(settings.log_level)
    require_files(settings)
    require_fit(settings, SETTINGS_FILE, SettingsError)
    node.database.require_durable()
    schema.require_current(node.database)
    run = uuid7()
    with _only_one(folder) as lock_file:
        if before := _run_before(lock_file):
            _end_processes(node, before)
        _note_run(lock_file, run)
        node.spool_folder.mkdir(mode=0o700, exist_ok=True)
        node.sweep()
        bound = _bound(settings)
        status = Supervisor(
            children=[
                ChildSpec("web", "node.serving", ("web", str(folder), run), count=settings.web_processes),
                # Jobs hold their leases in the name of the run: a job process that was killed is replaced by one that
                # goes on with its leases, and does not wait for them to run out.
                ChildSpec("jobs", "node.serving", ("jobs", str(folder), run), listens=False),
            ],
            sockets=[bound],
            drain_seconds=settings.drain_seconds,
            scheme="https" if settings.tls_certificate else "http",
            on_exit=lambda child: _end_processes(node, run, child.pid),
            announce=announce,
        ).run()
        bound.close()
    node.close()
    return status


def _bound(settings: Settings) -> socket.socket:
    """Bind the node's address; an address that cannot be had is named."""
    try:
        return bind(settings.host, settings.port)
    except OSError as error:
        raise OSError(error.errno, error.strerror, f"{settings.host} port {settings.port}") from error


def main(arguments: list[str]) -> None:
    """Run as a child of ``serve``: ``web FOLDER RUN`` or ``jobs FOLDER RUN``."""
    end_with_parent()
    kind, folder, run = arguments
    node = build_node(Path(folder))
    configure_logs(node.settings.log_level)
    if kind == "web":
        _run_web(node, run)
    else:
        from node.jobs.process import run_jobs

        run_jobs(node, sweep=node.sweep, owner=run)
    node.close()


def _run_web(node: Node, run: str) -> None:
    # Imported by the process that needs it: the parent would carry Flask and Connexion for nothing.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Using `httpx` with `starlette.testclient`")
        from node.asgi import build_web
        from node.web.server import run_asgi

    # The loop and the admission thread share one interpreter lock; the default of 5 ms makes each wait for the other.
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
    process_id = uuid7()
    app = build_web(node, process_id, run)
    # What is loaded by now lives as long as the process; a collector that walks through it stops the loop for 0.1 s each time.
    gc.collect()
    gc.freeze()
    run_asgi(app, child_sockets(), _server_settings(node.settings))
    with _unless_database_is_away(), node.database.writing() as connection:
        mark_ended(connection, process_id, now_us())


def _server_settings(settings: Settings) -> "ServerSettings":
    from node.web.server import ServerSettings

    return ServerSettings(
        certificate=settings.path(settings.tls_certificate) if settings.tls_certificate else None,
        private_key=settings.path(settings.tls_key) if settings.tls_key else None,
        drain_seconds=settings.drain_seconds,
    )


def _end_processes(node: Node, run: str, pid: int | None = None) -> None:
    """Note that processes are gone, so that what they left open in the log is closed."""
    with _unless_database_is_away(), node.database.writing() as connection:
        mark_run_ended(connection, run, now_us(), pid)


@contextmanager
def _unless_database_is_away() -> Iterator[None]:
    """Go on without a database that does not answer."""
    try:
        yield
    except SQLAlchemyError as error:
        # Their heartbeats will go stale and tell the same, a minute later.
        log.error("process_end_not_noted", error=type(error).__name__)


@contextmanager
def _only_one(folder: Path) -> Iterator[IO[str]]:
    """Hold the folder's lock, which ends with the process however it ends; raises AlreadyServing."""
    with (folder / LOCK_FILE).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise AlreadyServing(f"{folder}: another locker-node serve runs on this folder") from error
        yield file


def _run_before(lock_file: IO[str]) -> str | None:
    """Return the run that held this lock before; whoever holds it now knows that that one is over.

    Names of host and folder would not tell that: two containers on one database can have the same ones. In a copy of the
    folder the lock is another file, and the run that is written there may live.
    """
    lock_file.seek(0)
    run, _, where = lock_file.read(200).partition(" ")
    return run if where == _identity(lock_file) else None


def _note_run(lock_file: IO[str], run: str) -> None:
    lock_file.truncate(0)
    lock_file.write(f"{run} {_identity(lock_file)}")
    lock_file.flush()


def _identity(file: IO[str]) -> str:
    status = os.fstat(file.fileno())
    return f"{status.st_dev}:{status.st_ino}"


if __name__ == "__main__":
    main(sys.argv[1:])
