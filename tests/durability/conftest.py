"""Nodes on real folders and databases, served by their real processes."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.postgresql import PostgreSQLServer, running_postgresql
from tests.delivery.conftest import ServedNode, make_node
from tests.durability.processes import NodeProcess


@pytest.fixture
def new_node(tmp_path: Path) -> Iterator[Callable[..., ServedNode]]:
    """Make a node's folder on a database."""
    made: list[ServedNode] = []

    def make(database_url: str, **settings) -> ServedNode:
        served = make_node(tmp_path / "node", database_url, port=0, log_level="warning", **settings)
        made.append(served)
        return served

    yield make
    for served in made:
        served.node.close()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., NodeProcess]]:
    """Start ``runner.py``; whatever runs at the test's end is stopped."""
    running: list[NodeProcess] = []

    def start(*arguments: str) -> NodeProcess:
        process = NodeProcess(*arguments, log=tmp_path / "processes.log")
        running.append(process)
        return process

    yield start
    for process in running:
        process.stop()


@pytest.fixture(scope="session")
def crash_server() -> Iterator[PostgreSQLServer]:
    """A PostgreSQL that may be killed: other tests have another."""
    with running_postgresql() as server:
        yield server
