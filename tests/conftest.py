"""Fixtures for the whole tree: a real PostgreSQL on a free port, databases of both kinds, and the counts of the two tiers."""

import json
import os
import platform
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.postgresql import PostgreSQLServer, running_postgresql

SHARING_FOLDERS = ("federation",)
"""Folders whose tests share one running federation."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="run the full numbers (make soak)")
    parser.addoption("--soak-report", help="write the run's result to this file")


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    """Record a soak run: what ran, what failed, how long each test took."""
    report = config.getoption("--soak-report")
    if not report:
        return
    stats = terminalreporter.stats
    calls = [item for name in ("passed", "failed") for item in stats.get(name, []) if item.when == "call"]
    result = {
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": platform.python_version(),
        "processors": len(os.sched_getaffinity(0)),
        "counts": {name: len(stats.get(name, [])) for name in ("passed", "failed", "error", "skipped", "deselected")},
        "failed": sorted(item.nodeid for name in ("failed", "error") for item in stats.get(name, [])),
        "slowest": {
            item.nodeid: round(item.duration, 1) for item in sorted(calls, key=lambda item: -item.duration)[:60]
        },
    }
    Path(report).write_text(json.dumps(result, indent=2) + "\n")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the full numbers to ``make soak``, and keep together what shares servers when tests run in several processes."""
    if not config.getoption("--soak"):
        left = [item for item in items if item.get_closest_marker("soak")]
        if left:
            config.hook.pytest_deselected(items=left)
            items[:] = [item for item in items if item not in left]
    for item in items:
        folder = item.path.parent.name
        item.add_marker(pytest.mark.xdist_group(folder if folder in SHARING_FOLDERS else str(item.path)))


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


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgreSQLServer]:
    """The run's server; without PostgreSQL on the machine this fails the run and skips nothing."""
    with running_postgresql() as server:
        yield server


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
