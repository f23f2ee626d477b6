"""A node's control plane as it is served: the real application inside the real middleware, on a real database."""

import asyncio
import json
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import httpx
from prometheus_client import CollectorRegistry
from sqlalchemy import update

from drivers.filesystem import FilesystemDriver
from node.contract.holders import Holder
from node.contract.identifiers import new_secret, uuid7
from node.contract.records import sign_request
from node.contract.sealing import OpeningKey
from node.contract.signing import LOG_GRANT, PULL, REGISTRATION, TICKET, KeySet, SigningKey
from node.contract.tickets import Ticket, issue_ticket
from node.contract.times import DAY, SECOND, now_us
from node.contract.uri import DocumentURI
from node.db import catalogue
from node.db.audit_log import DirectRecorder, LogFilter, read_log
from node.db.cataloguing import CatalogueStore
from node.db.control_records import ControlRecords
from node.db.lockers import activate, change_locker, save_locker
from node.db.models import Document
from node.db.pulls import PullRecords
from node.db.sequencer import sequence_once
from node.db.session import Database
from node.db.tokens import add_token, list_tokens, revoke_token
from node.http.app import create_control_app
from node.http.ports import ControlServices, NodeIdentity, ReadinessCheck
from node.services.access import NodeRules, TokenScope
from node.services.documents import DocumentAdministration
from node.services.lookups import HolderLookup
from node.services.pending_objects import PendingObjects
from node.services.ports import Placement
from node.services.pulls import PullLimits, PullService
from node.storage.guard import GuardedDriver
from node.web.floods import FloodGate
from node.web.metrics import render_metrics
from node.web.middleware import WebSettings, web_stack
from node.web.specification import load_specification

NODE_ID = "node-1"
ISS = "https://locker.example"
ISSUER = "in.gov.example"
OTHER_ISSUER = "in.gov.other"
HASH_KEY = b"k" * 32
TAG_KEY = b"t" * 32
MOBILE = "+919876543210"
SHA256 = "ab" * 32


@cache
def specification() -> dict[str, Any]:
    """The contract, read once for all tests."""
    return load_specification(resources.files("openapi"), "node.yaml")


@dataclass
class Locker:
    """A locker's signing keys, as registered here."""

    iss: str = ISS
    keys: dict[str, SigningKey] = field(
        default_factory=lambda: {typ: SigningKey.generate(typ) for typ in (TICKET, PULL, LOG_GRANT)}
    )

    def jwks(self) -> str:
        return json.dumps(KeySet([key.public for key in self.keys.values()]).jwks())

    def ticket(self, doc_id: str = "1", **claims: Any) -> str:
        now = claims.pop("issued_us", now_us())
        good = dict(  # noqa: C408 - reads as the call that it is
            iss=self.iss, aud=NODE_ID, client_id="university", act=None, issuer=ISSUER, doc_type="INCOM", doc_id=doc_id,
            version=None, representations=None, holder_ref="h-1", basis="consent", consent_id=uuid7(),
            artefact="ab" * 32, purpose="admission", jti=uuid7(), iat=now // SECOND, exp=now // SECOND + 600,
            issued_us=now,
        )  # fmt: skip
        return issue_ticket(Ticket(**{**good, **claims}), self.keys[TICKET])

    def pull(self, body: dict[str, Any], **claims: Any) -> str:
        said = {
            "iss": self.iss, "sub": body["resident"]["resident_ref"], "resident_ref": body["resident"]["resident_ref"],
            "txn": body["txn"], "issuer": body["issuer"], "doc_type": body["doc_type"],
        }  # fmt: skip
        return sign_request({**said, **claims}, self.keys[PULL], audience=NODE_ID, now_us=now_us())

    def log_grant(self, audience: str = NODE_ID, at_us: int | None = None, **scope: str) -> str:
        claims = {"iss": self.iss, **scope}
        return sign_request(claims, self.keys[LOG_GRANT], audience=audience, now_us=at_us or now_us(), lifetime=300)


@dataclass
class ControlPlane:
    """What the tests ask of the control plane and what stands behind it."""

    folder: Path
    database: Database
    locker: Locker = field(default_factory=Locker)
    floods: FloodGate = field(default_factory=FloodGate)
    checks: list[ReadinessCheck] = field(default_factory=lambda: [ReadinessCheck("database", True, "It answers.")])
    refreshed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.registry = CollectorRegistry()
        self.registration = SigningKey.generate(REGISTRATION)
        self.opening = OpeningKey.generate()
        self.records = ControlRecords(self.database)
        (self.folder / "storage").mkdir()
        stores = {"main": GuardedDriver(FilesystemDriver(self.folder / "storage"), name="main")}
        self.catalogue = CatalogueStore(self.database, hash_key=HASH_KEY, waiting_key=self.opening.public)
        administration = DocumentAdministration(
            self.catalogue, stores, "main", PendingObjects(self.folder / "pending", stores, lambda *_: set()),
            hash_key=HASH_KEY, max_document_bytes=1024, clock=now_us,
        )  # fmt: skip
        limits = PullLimits(per_resident=10, per_issuer=100)
        self.services = ControlServices(
            process_id="process-1",
            identity=NodeIdentity(
                NODE_ID,
                "Example",
                "https://node.example",
                False,
                KeySet([self.registration.public]).jwks(),
                [self.opening.public.jwk()],
            ),
            rules=NodeRules(NODE_ID),
            limits={},
            credentials=self.records,
            catalogue=self.records,
            administration=administration,
            log=self.records,
            holders=HolderLookup(self.records, HASH_KEY),
            pulls=PullService(
                PullRecords(self.database), hash_key=HASH_KEY, opening=self.opening, limits=limits, clock=now_us
            ),
            counts=self.records.counts,
            recorder=DirectRecorder(self.database),
            floods=self.floods,
            refresh_keys=self._refresh,
            readiness=lambda: self.checks,
            metrics=lambda: render_metrics(self.registry),
            clock=now_us,
        )
        self.build()

    def build(self, *, validate_responses: bool = True, **changes: Any) -> None:
        """Build the application, with some services replaced. Connexion can validate no answer to HEAD."""
        self.services = replace(self.services, **changes)
        control = create_control_app(
            self.services, specification=specification(), validate_responses=validate_responses
        )
        self.app = web_stack(control, WebSettings(), CollectorRegistry())

    def _refresh(self, iss: str) -> bool:
        self.refreshed.append(iss)
        with self.database.writing() as connection:
            change_locker(connection, iss, jwks=self.locker.jwks())
        return True

    def ask(
        self, method: str, path: str, *, bearer: str | None = None, client: str = "203.0.113.7", **more: Any
    ) -> httpx.Response:
        """Send one request to the application."""
        headers = httpx.Headers(more.pop("headers", {})).multi_items()
        if bearer:
            headers.append(("Authorization", f"Bearer {bearer}"))

        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False, client=(client, 1))
            async with httpx.AsyncClient(transport=transport, base_url="http://node.example") as http:
                return await http.request(method, path, headers=headers, **more)

        return asyncio.run(send())

    def add(self, doc_id: str = "1", *, issuer: str = ISSUER, mobile: str | None = MOBILE, **columns: Any) -> str:
        """Put a document into the catalogue; it has no bytes, which this plane never reads."""
        uri = DocumentURI(issuer, "INCOM", doc_id)
        holder = Holder.parse("mobile", mobile) if mobile else None
        new = catalogue.NewDocument(
            uri, title="Income certificate", issued_on="2026-04-01", office=columns.pop("office", None),
            expires_on=columns.pop("expires_on", None),
            holder_scheme="mobile" if holder else None, holder_hash=holder.keyed_hash(HASH_KEY) if holder else None,
            holder_last4=holder.last_four if holder else None, parameters={"number": doc_id},
        )  # fmt: skip
        with self.database.writing() as connection:
            document_id = catalogue.add_document(connection, new, now_us())
            placement = Placement(1, "application/pdf", "te", 3, SHA256, "main", f"{doc_id}.pdf")
            catalogue.add_representation(connection, document_id, placement, now_us())
            mine = update(Document).where(Document.document_id == document_id)
            connection.execute(mine.values(holder_ref=columns.pop("holder_ref", "h-1")))
            if columns:
                catalogue.change_document(connection, document_id, now_us(), **columns)
        return str(uri)

    def token(self, role: str = "operator", *, expires_us: int | None = None, **scope: Any) -> str:
        secret = new_secret()
        with self.database.writing() as connection:
            add_token(
                connection, secret, name=f"{role}-1", role=role, scope=TokenScope(**scope), now_us=now_us(),
                expires_us=expires_us or now_us() + DAY,
            )  # fmt: skip
        return secret

    def revoked_token(self, role: str = "operator") -> str:
        secret = self.token(role)
        with self.database.writing() as connection:
            newest = list_tokens(connection)[-1]
            assert revoke_token(connection, newest.token_id, now_us())
        return secret

    def sequence(self) -> None:
        while sequence_once(self.database, TAG_KEY):
            pass

    def events(self) -> list[dict[str, Any]]:
        """Return every log row in the order of positions."""
        self.sequence()
        with self.database.reading() as connection:
            return [row.event for row in read_log(connection, LogFilter(), 10_000)]

    def write(self, **fields: Any) -> None:
        """Write a log row as the data plane would."""
        row = {"phase": "attempt", "action": "read", "outcome": "complete", **fields}
        DirectRecorder(self.database).record(row)


def register(plane: ControlPlane, locker: Locker, *, active: bool = True) -> None:
    with plane.database.writing() as connection:
        save_locker(
            connection, iss=locker.iss, base_url=locker.iss, jwks=locker.jwks(),
            encryption_key=json.dumps(OpeningKey.generate().public.jwk()), endpoints={}, now_us=now_us(),
        )  # fmt: skip
        if active:
            activate(connection, locker.iss)


def pull_body(number: str = "1", **changes: Any) -> dict[str, Any]:
    body = {
        "txn": uuid7(), "issuer": ISSUER, "doc_type": "INCOM", "parameters": {"number": number},
        "resident": {"resident_ref": "h-1", "attributes": {}}, "holders": [{"scheme": "mobile", "value": MOBILE}],
    }  # fmt: skip
    return {**body, **changes}
