"""A PostgreSQL server of one's own in a new folder: for the bench and for tests, with fsync and synchronous commit on."""

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class PostgreSQLServer:
    """A server of its own for the test run, with fsync and synchronous commit on, as in production."""

    folder: Path
    port: int
    password: str
    bin: Path

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://locker:{self.password}@127.0.0.1:{self.port}/{database}"

    def run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [*as_postgres(), str(self.bin / program), *arguments], check=True, capture_output=True, cwd=self.folder
        )

    def create_database(self, name: str | None = None, template: str | None = None) -> str:
        """Make a database, empty or a copy of another that nobody is connected to, and return its URL."""
        name = name or "test_" + secrets.token_hex(6)
        self.administer(f'CREATE DATABASE "{name}"' + (f' TEMPLATE "{template}"' if template else ""))
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Remove a database with whatever is connected to it."""
        self.administer(f'DROP DATABASE IF EXISTS "{url.rpartition("/")[2]}" WITH (FORCE)')

    def administer(self, statement: str) -> None:
        """Run one statement outside of any transaction."""
        import psycopg

        address = self.url("postgres").replace("postgresql+psycopg:", "postgresql:")
        with psycopg.connect(address, autocommit=True) as connection:
            connection.execute(statement)

    def start(self, *options: str) -> None:
        # The log file keeps pg_ctl's server from holding this process's pipes open.
        arguments = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= {' '.join(options)}"
        log = str(self.folder / "server.log")
        self.run("pg_ctl", "-D", str(self.folder / "data"), "-w", "-t", "30", "-l", log, "-o", arguments, "start")

    def stop(self, mode: str = "fast") -> None:
        self.run("pg_ctl", "-D", str(self.folder / "data"), "-w", "-m", mode, "stop")


def as_postgres() -> list[str]:
    """Return the command prefix for PostgreSQL's programs, which refuse to run as root."""
    return ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []


def postgresql_programs() -> Path:
    """Return the folder of the newest PostgreSQL server; a machine without one fails the run and does not skip."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if folders:
        return folders[-1].parent
    found = shutil.which("initdb")
    if not found:
        raise FileNotFoundError("PostgreSQL's server programs are missing: make test installs them")
    return Path(found).parent


def make_postgresql(folder: Path, port: int) -> PostgreSQLServer:
    """Initialise and start a PostgreSQL server in a new folder."""
    password = secrets.token_hex(16)
    server = PostgreSQLServer(folder, port, password, postgresql_programs())
    secret = folder / "password"
    secret.write_text(password)
    if os.geteuid() == 0:
        owner = pwd.getpwnam("postgres")
        os.chown(folder, owner.pw_uid, owner.pw_gid)
        os.chown(secret, owner.pw_uid, owner.pw_gid)
    server.run(
        "initdb", "-D", str(folder / "data"), "-A", "scram-sha-256", "-U", "locker", f"--pwfile={secret}",
        "-E", "UTF8", "--locale=C.UTF-8", "--no-sync",
    )  # fmt: skip
    server.start()
    return server


@contextmanager
def running_postgresql(place: Path | None = None) -> Iterator[PostgreSQLServer]:
    """Run a server on a free port of the loopback interface and remove it afterwards; ``place`` is where its folder is made."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    # A folder that the postgres user can reach, which test runners' own folders are not.
    folder = Path(tempfile.mkdtemp(prefix="federated-locker-postgresql-", dir=place))
    server = make_postgresql(folder, port)
    try:
        yield server
    finally:
        server.stop("immediate")
        shutil.rmtree(folder, ignore_errors=True)
