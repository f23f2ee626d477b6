"""Fixtures for the whole tree: a real PostgreSQL on a free port, databases of both kinds, and the counts of the two tiers."""

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="run the full numbers (make soak)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--soak"):
        return
    kept, left = [], []
    for item in items:
        (left if item.get_closest_marker("soak") else kept).append(item)
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = kept


@dataclass(frozen=True)
class Tier:
    """Counts of the tier that runs: few in ``make test``, the full ones in ``make soak``."""

    full: bool

    def count(self, *, small: int, full: int) -> int:
        return full if self.full else small


@pytest.fixture(scope="session")
def soak(request: pytest.FixtureRequest) -> Tier:
    return Tier(bool(request.config.getoption("--soak")))


@pytest.fixture
def free_port() -> Callable[[], int]:
    def find() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    return find


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

    def create_database(self) -> str:
        name = "test_" + secrets.token_hex(6)
        environment = {**os.environ, "PGPASSWORD": self.password}
        subprocess.run(
            [str(self.bin / "createdb"), "-h", "127.0.0.1", "-p", str(self.port), "-U", "locker", name],
            check=True,
            capture_output=True,
            env=environment,
        )
        return self.url(name)

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
        pytest.exit("PostgreSQL's server programs are missing: run make test, which installs them", returncode=3)
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


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgreSQLServer]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    # Not in pytest's own folder, which other users cannot enter and other runs clear away.
    folder = Path(tempfile.mkdtemp(prefix="federated-locker-postgresql-"))
    server = make_postgresql(folder, port)
    yield server
    server.stop("immediate")
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_url(postgresql_server: PostgreSQLServer) -> str:
    """A fresh, empty database on the session's PostgreSQL."""
    return postgresql_server.create_database()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh, empty database, once of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/test.db"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture(scope="session")
def python() -> str:
    return sys.executable
