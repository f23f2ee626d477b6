"""A control plane on a database of its own for each test."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from connexion.spec import OpenAPISpecification

from node.contract.times import now_us
from node.db import catalogue
from node.db.schema import upgrade
from node.db.session import Database
from node.services.ports import DocTypeRecord
from tests.http.plane import ISSUER, OTHER_ISSUER, ControlPlane, register


@pytest.fixture(scope="session", autouse=True)
def one_validation() -> Iterator[None]:
    """Have Connexion validate the same contract once and not at each build, which is most of what a test here would take."""
    good: set[str] = set()
    validate = OpenAPISpecification._validate_spec

    def validate_once(contract: Any) -> None:
        text = json.dumps(contract, sort_keys=True)
        if text not in good:
            validate(contract)
            good.add(text)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OpenAPISpecification, "_validate_spec", staticmethod(validate_once))
        yield


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
