"""Fixtures for the whole tree: a real PostgreSQL on a free port, databases of both kinds, and the counts of the two tiers."""

import json
import os
import platform
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from bench.postgresql import PostgreSQLServer, running_postgresql
from tests.databases import MigratedDatabases
from tests.folders import quick_folder
from tests.scheduling import FEDERATION, GroupScheduling, group_of, place_of, sharing_files


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="run the full numbers (make soak)")
    parser.addoption("--soak-report", help="write the run's result to this file")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Put the folders of an ordinary run into memory; a soak run has them on the disk."""
    in_worker = hasattr(config, "workerinput")
    if not (config.getoption("--soak") or config.option.basetemp or in_worker) and (place := quick_folder()):
        config.option.basetemp = made = tempfile.mkdtemp(prefix="federated-locker-tests-", dir=place)
        config.add_cleanup(lambda: shutil.rmtree(made, ignore_errors=True))


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
    """Leave the full numbers to ``make soak``, and have several processes begin with what takes long."""
    if not config.getoption("--soak"):
        left = [item for item in items if item.get_closest_marker("soak")]
        if left:
            config.hook.pytest_deselected(items=left)
            items[:] = [item for item in items if item not in left]
    sharing = sharing_files()
    for item in items:
        if "federation" in item.fixturenames and group_of(item.nodeid, sharing) != FEDERATION:
            raise pytest.UsageError(f"{item.nodeid} uses the federation, and tests/scheduling.py does not see it")
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: place_of(group_of(item.nodeid, sharing)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> GroupScheduling | None:
    """Keep together what shares servers when tests run in several processes."""
    return GroupScheduling(config, log) if config.getoption("dist") == "loadgroup" else None


@dataclass(frozen=True)
class Tier:
    """Counts of the tier that runs: few in ``make test``, the full ones in ``make soak``."""

    full: bool

    def count(self, *, small: int, full: int) -> int:
        return full if self.full else small


@pytest.fixture(scope="session")
def soak(request: pytest.FixtureRequest) -> Tier:
    return Tier(bool(request.config.getoption("--soak")))


@pytest.fixture(scope="session")
def contract_read_once() -> Iterator[None]:
    """Have the contract's files parsed once, and Connexion validate the same contract once: both are most of what a build takes."""
    import yaml
    from connexion.spec import OpenAPISpecification

    from node.web import specification

    good: set[str] = set()
    validate, parse = OpenAPISpecification._validate_spec, cache(yaml.load)

    def validate_once(contract: Any) -> None:
        text = json.dumps(contract, sort_keys=True)
        if text not in good:
            validate(contract)
            good.add(text)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OpenAPISpecification, "_validate_spec", staticmethod(validate_once))
        # What is parsed is copied piece by piece, never changed.
        patch.setattr(specification.yaml, "load", parse)
        yield


@pytest.fixture
def free_port() -> Callable[[], int]:
    def find() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    return find


@pytest.fixture(scope="session")
def postgresql_server(request: pytest.FixtureRequest) -> Iterator[PostgreSQLServer]:
    """The run's server; without PostgreSQL on the machine this fails the run and skips nothing."""
    with running_postgresql(None if request.config.getoption("--soak") else quick_folder()) as server:
        yield server


@pytest.fixture
def postgres_url(postgresql_server: PostgreSQLServer) -> Iterator[str]:
    """A fresh, empty database on the session's PostgreSQL."""
    url = postgresql_server.create_database()
    yield url
    postgresql_server.drop_database(url)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh, empty database, once of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/test.db"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> MigratedDatabases:
    """Makes databases that have the newest schema."""
    return MigratedDatabases(tmp_path_factory.mktemp("templates"))


def _migrated_url(
    owner: str, request: pytest.FixtureRequest, migrated: MigratedDatabases, folder: Path
) -> Iterator[str]:
    if request.param == "sqlite":
        yield migrated.sqlite(owner, folder / "test.db")
        return
    server = request.getfixturevalue("postgresql_server")
    url = migrated.postgresql(owner, server)
    yield url
    server.drop_database(url)


@pytest.fixture(params=["sqlite", "postgresql"])
def node_database_url(request: pytest.FixtureRequest, migrated: MigratedDatabases, tmp_path: Path) -> Iterator[str]:
    """A node's database without rows, once of each kind."""
    yield from _migrated_url("node", request, migrated, tmp_path)


@pytest.fixture(params=["sqlite", "postgresql"])
def locker_database_url(request: pytest.FixtureRequest, migrated: MigratedDatabases, tmp_path: Path) -> Iterator[str]:
    """A locker's database without rows, once of each kind."""
    yield from _migrated_url("locker", request, migrated, tmp_path)


@pytest.fixture(scope="session")
def python() -> str:
    return sys.executable
