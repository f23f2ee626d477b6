"""The locker's tables: who may do what, references to documents, consents and what was signed. Never a document's bytes.

Rows that others follow take their positions from ``feed_head`` in the transaction that adds them, so positions become visible
in order; a serial or a time would not (rows commit out of order). ``ledger`` numbers tickets, attempts, consent events and link
events together, ``revocations`` the pages; ``links`` is only the lock under which pushed documents and residents find each other.
Locks are taken in the order consent, links, ledger, revocations.
"""

from typing import Any

from sqlalchemy import BigInteger, Boolean, ForeignKey, Index, Integer, String, Text, TypeDecorator, UniqueConstraint
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class TimeUS(TypeDecorator[int]):
    """A moment in microseconds UTC, BIGINT in every database; the one type of every time column."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> int | None:
        """Take whole microseconds only: a float or a datetime would be a moment in some other unit or zone."""
        if value is not None and type(value) is not int:
            raise TypeError("a time is written in whole microseconds UTC")
        return value


class Base(DeclarativeBase):
    """The locker's own metadata; the node has another."""


class FeedHead(Base):
    """The last position given in a feed; updating the row is the lock under which a position is taken."""

    __tablename__ = "feed_head"
    feed: Mapped[str] = mapped_column(String(16), primary_key=True)
    position: Mapped[int] = mapped_column(BigInteger)


class Registration(Base):
    """What a node asked for under its own signature; nothing of it counts until an officer approves it.

    ``network`` is where it came from, so that one network does not fill the waiting list.
    """

    __tablename__ = "registration"
    registration_id: Mapped[str] = mapped_column(String(36), primary_key=True)
    node_id: Mapped[str] = mapped_column(String(128), index=True)
    fingerprint: Mapped[str] = mapped_column(String(64))
    jti: Mapped[str] = mapped_column(String(128))
    claims: Mapped[str] = mapped_column(Text)
    network: Mapped[str | None] = mapped_column(String(64))
    received_us: Mapped[int] = mapped_column(TimeUS)


class Node(Base):
    """A department's node; ``state`` is approved or suspended, ``health`` what the job process last saw.

    ``exposure`` is ``direct``, or ``gateway-only`` for a node that answers nobody but the gateway.
    """

    __tablename__ = "node"
    node_id: Mapped[str] = mapped_column(String(128), primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    base_url: Mapped[str] = mapped_column(Text)
    exposure: Mapped[str] = mapped_column(String(16), default="direct", server_default="direct")
    fingerprint: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(16))
    health: Mapped[str] = mapped_column(String(16), default="unknown")
    health_us: Mapped[int | None] = mapped_column(TimeUS)
    approved_us: Mapped[int] = mapped_column(TimeUS)


class Issuer(Base):
    """An issuer and the node that answers for it; ``state`` is expected, approved or suspended."""

    __tablename__ = "issuer"
    issuer_key: Mapped[str] = mapped_column(String(128), primary_key=True)
    issuer: Mapped[str] = mapped_column(String(128))
    name: Mapped[str] = mapped_column(Text)
    node_id: Mapped[str | None] = mapped_column(ForeignKey("node.node_id"))
    state: Mapped[str] = mapped_column(String(16))
    changed_us: Mapped[int] = mapped_column(TimeUS)


class DocType(Base):
    """A document type that a node is approved to answer for; lists are JSON text."""

    __tablename__ = "doc_type"
    issuer_key: Mapped[str] = mapped_column(ForeignKey("issuer.issuer_key"), primary_key=True)
    doc_type_key: Mapped[str] = mapped_column(String(32), primary_key=True)
    doc_type: Mapped[str] = mapped_column(String(32))
    name: Mapped[str] = mapped_column(Text)
    search_parameters: Mapped[str] = mapped_column(Text)
    media_types: Mapped[str] = mapped_column(Text)


class Client(Base):
    """A machine that authenticates itself: a node or a requester, by its JWKS or a hashed secret."""

    __tablename__ = "client"
    client_id: Mapped[str] = mapped_column(String(128), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    name: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(String(16))
    secret_hash: Mapped[str | None] = mapped_column(String(64))
    jwks: Mapped[str | None] = mapped_column(Text)
    created_us: Mapped[int] = mapped_column(TimeUS)


class AccessToken(Base):
    """An opaque bearer token by its SHA-256; ``role`` says what its subject is."""

    __tablename__ = "access_token"
    token_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    role: Mapped[str] = mapped_column(String(16))
    subject: Mapped[str] = mapped_column(String(128), index=True)
    created_us: Mapped[int] = mapped_column(TimeUS)
    expires_us: Mapped[int] = mapped_column(TimeUS, index=True)


class UsedAssertion(Base):
    """A signed request that was taken once; kept until it would be refused as expired anyway."""

    __tablename__ = "used_assertion"
    client_id: Mapped[str] = mapped_column(String(128), primary_key=True)
    jti: Mapped[str] = mapped_column(String(128), primary_key=True)
    expires_us: Mapped[int] = mapped_column(TimeUS, index=True)


class Resident(Base):
    """A person with an account here."""

    __tablename__ = "resident"
    resident_id: Mapped[str] = mapped_column(String(36), primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    created_us: Mapped[int] = mapped_column(TimeUS)


class ResidentAttribute(Base):
    """A fact of a resident's profile and who vouches for it."""

    __tablename__ = "resident_attribute"
    resident_id: Mapped[str] = mapped_column(ForeignKey("resident.resident_id"), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str] = mapped_column(Text)
    source: Mapped[str] = mapped_column(String(32))


class ResidentIdentifier(Base):
    """An identifier of a resident as a keyed hash, and sealed to the locker's own key for asking nodes on their behalf."""

    __tablename__ = "resident_identifier"
    resident_id: Mapped[str] = mapped_column(ForeignKey("resident.resident_id"), primary_key=True)
    scheme: Mapped[str] = mapped_column(String(16), primary_key=True)
    keyed_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    key_version: Mapped[int] = mapped_column(Integer)
    last4: Mapped[str] = mapped_column(String(4))
    sealed: Mapped[str] = mapped_column(Text)
    source: Mapped[str] = mapped_column(String(32))
    __table_args__ = (Index("ix_resident_identifier_hash", "keyed_hash", "scheme"),)


class ResidentReference(Base):
    """The random name under which one party (a node or requester) knows one resident; no two parties share it."""

    __tablename__ = "resident_reference"
    party: Mapped[str] = mapped_column(String(128), primary_key=True)
    resident_id: Mapped[str] = mapped_column(ForeignKey("resident.resident_id"), primary_key=True)
    reference: Mapped[str] = mapped_column(String(64), unique=True)


class Link(Base):
    """A document URI, the node it lives on, and whose it is once that is known; ``document`` is what the node says of it."""

    __tablename__ = "link"
    uri_key: Mapped[str] = mapped_column(String(290), primary_key=True)
    uri: Mapped[str] = mapped_column(String(290))
    issuer_key: Mapped[str] = mapped_column(ForeignKey("issuer.issuer_key"))
    issuer: Mapped[str] = mapped_column(String(128))
    doc_type_key: Mapped[str] = mapped_column(String(32))
    doc_type: Mapped[str] = mapped_column(String(32))
    doc_id: Mapped[str] = mapped_column(String(128))
    node_id: Mapped[str] = mapped_column(ForeignKey("node.node_id"))
    state: Mapped[str] = mapped_column(String(16))
    revision: Mapped[int] = mapped_column(BigInteger)
    document: Mapped[str] = mapped_column(Text)
    holder_scheme: Mapped[str | None] = mapped_column(String(16))
    holder_hash: Mapped[str | None] = mapped_column(String(64))
    holder_last4: Mapped[str | None] = mapped_column(String(4))
    resident_id: Mapped[str | None] = mapped_column(ForeignKey("resident.resident_id"))
    holder_ref: Mapped[str | None] = mapped_column(String(64))
    linked_us: Mapped[int | None] = mapped_column(TimeUS)
    changed_us: Mapped[int] = mapped_column(TimeUS)
    __table_args__ = (
        Index("ix_link_holder", "holder_hash", "holder_scheme"),
        Index("ix_link_resident", "resident_id", "uri_key"),
    )


class LinkEvent(Base):
    """Append-only: a document was linked to a resident or withdrawn; its node and its resident follow these."""

    __tablename__ = "link_event"
    position: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    kind: Mapped[str] = mapped_column(String(16))
    uri: Mapped[str] = mapped_column(String(290))
    node_id: Mapped[str] = mapped_column(String(128))
    resident_id: Mapped[str] = mapped_column(String(36))
    holder_ref: Mapped[str] = mapped_column(String(64))
    at_us: Mapped[int] = mapped_column(TimeUS)
    __table_args__ = (
        Index("ix_link_event_node", "node_id", "position"),
        Index("ix_link_event_resident", "resident_id", "position"),
    )


class PushedRow(Base):
    """The result that a pushed row was given; the same row sent again gets the same result."""

    __tablename__ = "pushed_row"
    node_id: Mapped[str] = mapped_column(ForeignKey("node.node_id"), primary_key=True)
    row_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    result: Mapped[str] = mapped_column(Text)
    stored_us: Mapped[int] = mapped_column(TimeUS, index=True)


class Alert(Base):
    """Something an officer should look at, such as a node that pushes outside its scope."""

    __tablename__ = "alert"
    alert_id: Mapped[str] = mapped_column(String(36), primary_key=True)
    node_id: Mapped[str] = mapped_column(String(128), index=True)
    kind: Mapped[str] = mapped_column(String(32))
    detail: Mapped[str] = mapped_column(Text)
    at_us: Mapped[int] = mapped_column(TimeUS)


class Consent(Base):
    """A consent as it stands; tickets issued at or before ``void_before_us`` are void, ``position`` is that of its first event."""

    __tablename__ = "consent"
    consent_id: Mapped[str] = mapped_column(String(36), primary_key=True)
    position: Mapped[int] = mapped_column(BigInteger, unique=True)
    resident_id: Mapped[str] = mapped_column(ForeignKey("resident.resident_id"), index=True)
    client_id: Mapped[str] = mapped_column(ForeignKey("client.client_id"), index=True)
    state: Mapped[str] = mapped_column(String(16))
    revision: Mapped[int] = mapped_column(Integer)
    purpose: Mapped[str] = mapped_column(String(32))
    purpose_text: Mapped[str] = mapped_column(Text)
    once: Mapped[bool] = mapped_column(Boolean)
    artefact_digest: Mapped[str] = mapped_column(String(64))
    given_us: Mapped[int] = mapped_column(TimeUS)
    changed_us: Mapped[int] = mapped_column(TimeUS)
    expires_us: Mapped[int] = mapped_column(TimeUS)
    void_before_us: Mapped[int] = mapped_column(TimeUS)


class ConsentItem(Base):
    """A document that a consent covers now; ``used_jti`` is the one ticket of a consent for once."""

    __tablename__ = "consent_item"
    consent_id: Mapped[str] = mapped_column(ForeignKey("consent.consent_id"), primary_key=True)
    uri_key: Mapped[str] = mapped_column(ForeignKey("link.uri_key"), primary_key=True)
    uri: Mapped[str] = mapped_column(String(290))
    representations: Mapped[str | None] = mapped_column(Text)
    used_jti: Mapped[str | None] = mapped_column(String(36))


class ConsentEvent(Base):
    """Append-only: each change of a consent with the artefact signed for it. Triggers refuse UPDATE and DELETE."""

    __tablename__ = "consent_event"
    position: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    consent_id: Mapped[str] = mapped_column(ForeignKey("consent.consent_id"))
    resident_id: Mapped[str] = mapped_column(String(36))
    client_id: Mapped[str] = mapped_column(String(128))
    revision: Mapped[int] = mapped_column(Integer)
    kind: Mapped[str] = mapped_column(String(16))
    artefact: Mapped[str] = mapped_column(Text)
    at_us: Mapped[int] = mapped_column(TimeUS)
    __table_args__ = (
        UniqueConstraint("consent_id", "revision", name="uq_consent_event_revision"),
        Index("ix_consent_event_resident", "resident_id", "position"),
    )


class RevocationPageRow(Base):
    """A published revocation page as signed; pages are numbered by the head row ``revocations``."""

    __tablename__ = "revocation_page"
    sequence: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    token: Mapped[str] = mapped_column(Text)
    issued_us: Mapped[int] = mapped_column(TimeUS, index=True)
    next_update_us: Mapped[int] = mapped_column(TimeUS)


class TicketRecord(Base):
    """A ticket that was issued, durable before it is sent."""

    __tablename__ = "ticket_record"
    position: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    jti: Mapped[str] = mapped_column(String(36), unique=True)
    client_id: Mapped[str] = mapped_column(String(128))
    act: Mapped[str | None] = mapped_column(String(32))
    node_id: Mapped[str] = mapped_column(String(128))
    uri: Mapped[str] = mapped_column(String(290))
    resident_id: Mapped[str] = mapped_column(String(36))
    holder_ref: Mapped[str] = mapped_column(String(64))
    basis: Mapped[str] = mapped_column(String(16))
    consent_id: Mapped[str | None] = mapped_column(String(36))
    artefact: Mapped[str | None] = mapped_column(String(64))
    purpose: Mapped[str] = mapped_column(String(32))
    representations: Mapped[str | None] = mapped_column(Text)
    issued_us: Mapped[int] = mapped_column(TimeUS)
    expires_us: Mapped[int] = mapped_column(TimeUS)
    __table_args__ = (
        Index("ix_ticket_record_resident", "resident_id", "position"),
        Index("ix_ticket_record_consent", "consent_id", "issued_us"),
    )


class Attempt(Base):
    """Append-only: an attempt that has no ticket record, refused, failed or an auditor's query, durable before it is answered.

    ``subject`` is whose credential it was, None for a stranger's; ``count`` makes the row that of a flood, of whatever operation.
    """

    __tablename__ = "attempt"
    position: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    operation: Mapped[str | None] = mapped_column(String(16))
    outcome: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str | None] = mapped_column(String(64))
    role: Mapped[str | None] = mapped_column(String(16))
    subject: Mapped[str | None] = mapped_column(String(128))
    source: Mapped[str | None] = mapped_column(String(64))
    act: Mapped[str | None] = mapped_column(String(32))
    uri: Mapped[str | None] = mapped_column(String(290))
    consent_id: Mapped[str | None] = mapped_column(String(36))
    jti: Mapped[str | None] = mapped_column(String(36))
    query: Mapped[str | None] = mapped_column(Text)
    count: Mapped[int | None] = mapped_column(BigInteger)
    request_id: Mapped[str | None] = mapped_column(String(64))
    at_us: Mapped[int] = mapped_column(TimeUS)
    __table_args__ = (
        Index("ix_attempt_subject", "subject", "position"),
        Index("ix_attempt_consent", "consent_id", "position"),
    )


class PullAttempt(Base):
    """A resident's search with an issuer, so that tries can be counted and bounded."""

    __tablename__ = "pull_attempt"
    attempt_id: Mapped[str] = mapped_column(String(36), primary_key=True)
    resident_id: Mapped[str] = mapped_column(ForeignKey("resident.resident_id"))
    issuer_key: Mapped[str] = mapped_column(String(128))
    outcome: Mapped[str] = mapped_column(String(16))
    at_us: Mapped[int] = mapped_column(TimeUS)
    __table_args__ = (Index("ix_pull_attempt_resident", "resident_id", "issuer_key", "at_us"),)


LEDGER = "ledger"
FEEDS = (LEDGER, "links", "revocations")
