"""A node's catalogue, store and administration on real databases and a real folder."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text

from drivers.filesystem import FilesystemDriver
from node.contract.sealing import OpeningKey
from node.contract.times import now_us
from node.contract.uri import DocumentURI
from node.db.catalogue import add_issuer
from node.db.cataloguing import CatalogueStore
from node.db.lockers import activate, save_locker
from node.db.models import AccessEvent
from node.db.session import Database
from node.services.documents import DocumentAdministration
from node.services.ingest import Ingest
from node.services.pending_objects import PendingObjects
from node.storage.guard import GuardedDriver

HASH_KEY = b"k" * 32


@dataclass
class Place:
    """Everything below one temporary folder, and what a test asks of it."""

    folder: Path
    database: Database
    opening: OpeningKey = field(default_factory=OpeningKey.generate)
    max_document_bytes: int = 1024 * 1024

    def __post_init__(self) -> None:
        self.root = self.folder / "storage"
        self.root.mkdir()
        self.stores = {"main": GuardedDriver(FilesystemDriver(self.root), name="main")}
        self.catalogue = CatalogueStore(self.database, hash_key=HASH_KEY, waiting_key=self.opening.public)
        self.pending = PendingObjects(self.folder / "pending", self.stores, self.referenced)
        self.documents = DocumentAdministration(
            self.catalogue, self.stores, "main", self.pending, hash_key=HASH_KEY,
            max_document_bytes=self.max_document_bytes, clock=now_us,
        )  # fmt: skip

        self.ingest = Ingest(
            self.catalogue, self.stores["main"], "main", self.pending, hash_key=HASH_KEY,
            max_document_bytes=self.max_document_bytes, clock=now_us, pause=0,
        )  # fmt: skip

    def referenced(self, store: str, keys: Any) -> set[str]:
        with self.catalogue.reading() as reader:
            return reader.referenced(store, keys)

    def add_issuer(self, issuer: str) -> None:
        with self.database.writing() as connection:
            add_issuer(connection, issuer, issuer, now_us())

    def add_active_locker(self, iss: str = "https://locker.example") -> OpeningKey:
        key = OpeningKey.generate()
        with self.database.writing() as connection:
            save_locker(
                connection, iss=iss, base_url=iss, jwks="{}", encryption_key=json.dumps(key.public.jwk()), endpoints={},
                now_us=now_us(),
            )  # fmt: skip
            activate(connection, iss)
        return key

    def objects(self) -> list[str]:
        return sorted(str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file())

    def events(self) -> list[dict[str, Any]]:
        with self.database.reading() as connection:
            return [json.loads(row) for row in connection.execute(select(AccessEvent.payload)).scalars()]

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        with self.database.reading() as connection:
            return [tuple(row) for row in connection.execute(text(statement))]

    def content(self, uri: DocumentURI) -> list[bytes]:
        document = self.documents.find(uri)
        return [
            (self.root / placement.object_key).read_bytes()
            for placement in document.of_version(document.current_version)
        ]


@pytest.fixture
def place(node_database_url: str, tmp_path: Path) -> Iterator[Place]:
    folder = tmp_path / "node"
    folder.mkdir()
    database = Database(node_database_url)
    yield Place(folder, database)
    database.close()
