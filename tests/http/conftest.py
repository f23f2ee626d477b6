"""A control plane on a database of its own for each test."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.contract.times import now_us
from node.db import catalogue
from node.db.schema import upgrade
from node.db.session import Database
from node.services.ports import DocTypeRecord
from tests.http.plane import ISSUER, OTHER_ISSUER, ControlPlane, register


@pytest.fixture(scope="session", autouse=True)
def built_from_a_valid_contract(contract_read_once: None) -> None:
    """Each test builds the control plane anew."""


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite database without rows, to be copied."""
    file = tmp_path_factory.mktemp("control") / "node.db"
    database = Database(f"sqlite:///{file}")
    upgrade(database)
    with database.writing() as connection:
        for issuer, name in ((ISSUER, "Example department"), (OTHER_ISSUER, "Other department")):
            catalogue.add_issuer(connection, issuer, name, now_us())
            parameters = ({"name": "number", "label": "Number", "required": True},)
            catalogue.add_doc_type(connection, DocTypeRecord(issuer, "INCOM", "Income", parameters), now_us())
    database.close()
    return file


@pytest.fixture
def control(tmp_path: Path, empty_database: Path) -> Iterator[ControlPlane]:
    for file in empty_database.parent.iterdir():
        shutil.copy(file, tmp_path / file.name)
    database = Database(f"sqlite:///{tmp_path}/node.db")
    plane = ControlPlane(tmp_path, database)
    register(plane, plane.locker)
    yield plane
    database.close()
