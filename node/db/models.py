"""The node's tables. Times are BIGINT microseconds UTC; JSON is canonical text.

The access log is three append-only parts: ``access_event`` (the durable row, exactly as written), ``access_position`` (its
place, given later by the sequencer) and ``log_head`` (how many places there are). ``access_unsequenced`` queues events
that have no place yet, ``access_index`` repeats payload fields for filtering and can be rebuilt from the payloads.
"""

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, LargeBinary, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

MICROSECONDS = BigInteger
ROW_ID = BigInteger().with_variant(Integer, "sqlite")


class Base(DeclarativeBase):
    """The node's own metadata; the locker has another."""


class Issuer(Base):
    """An issuer hosted here; ``issuer_key`` is its id in lower case."""

    __tablename__ = "issuer"
    issuer_key: Mapped[str] = mapped_column(String(128), primary_key=True)
    issuer: Mapped[str] = mapped_column(String(128))
    name: Mapped[str] = mapped_column(Text)
    created_us: Mapped[int] = mapped_column(MICROSECONDS)


class DocType(Base):
    """A document type of an issuer: how it is searched, and the rule by which a holder's claim is matched."""

    __tablename__ = "doc_type"
    issuer_key: Mapped[str] = mapped_column(ForeignKey("issuer.issuer_key"), primary_key=True)
    doc_type_key: Mapped[str] = mapped_column(String(32), primary_key=True)
    doc_type: Mapped[str] = mapped_column(String(32))
    name: Mapped[str] = mapped_column(Text)
    search_parameters: Mapped[str] = mapped_column(Text, default="[]")
    match_rule: Mapped[str] = mapped_column(Text, default="{}")
    created_us: Mapped[int] = mapped_column(MICROSECONDS)


class Document(Base):
    """A document by URI; its bytes hang on versions. ``revision`` counts changes and orders pushes.

    ``holder_ref`` is the node's own random reference to the holder that the document has now.
    """

    __tablename__ = "document"
    document_id: Mapped[str] = mapped_column(String(36), primary_key=True)
    uri_key: Mapped[str] = mapped_column(String(290), unique=True)
    issuer: Mapped[str] = mapped_column(String(128))
    doc_type: Mapped[str] = mapped_column(String(32))
    doc_id: Mapped[str] = mapped_column(String(128))
    issuer_key: Mapped[str] = mapped_column(String(128))
    doc_type_key: Mapped[str] = mapped_column(String(32))
    title: Mapped[str] = mapped_column(Text, default="")
    status: Mapped[str] = mapped_column(String(16), default="active")
    status_reason: Mapped[str | None] = mapped_column(Text)
    issued_on: Mapped[str | None] = mapped_column(String(10))
    expires_on: Mapped[str | None] = mapped_column(String(10))
    office: Mapped[str | None] = mapped_column(String(128))
    holder_scheme: Mapped[str | None] = mapped_column(String(16))
    holder_hash: Mapped[str | None] = mapped_column(String(64))
    holder_last4: Mapped[str | None] = mapped_column(String(4))
    holder_ref: Mapped[str | None] = mapped_column(String(128))
    parameters: Mapped[str] = mapped_column(Text, default="{}")
    current_version: Mapped[int] = mapped_column(Integer, default=1)
    revision: Mapped[int] = mapped_column(Integer, default=1)
    created_us: Mapped[int] = mapped_column(MICROSECONDS)
    changed_us: Mapped[int] = mapped_column(MICROSECONDS)
    __table_args__ = (
        Index("ix_document_holder", "holder_hash"),
        Index("ix_document_holder_ref", "holder_ref"),
        Index("ix_document_type", "issuer_key", "doc_type_key"),
    )


class HolderReference(Base):
    """How a locker names a holder whom the node names by ``own_ref`` in the documents' rows."""

    __tablename__ = "holder_reference"
    own_ref: Mapped[str] = mapped_column(String(128), primary_key=True)
    iss: Mapped[str] = mapped_column(String(255), primary_key=True)
    holder_ref: Mapped[str] = mapped_column(String(128))
    __table_args__ = (Index("ix_holder_reference", "holder_ref"),)


class Representation(Base):
    """One stored form of one version of a document: media type, language, size, SHA-256, and where it lies."""

    __tablename__ = "representation"
    representation_id: Mapped[str] = mapped_column(String(36), primary_key=True)
    document_id: Mapped[str] = mapped_column(ForeignKey("document.document_id"))
    version: Mapped[int] = mapped_column(Integer)
    media_type: Mapped[str] = mapped_column(String(100))
    language: Mapped[str | None] = mapped_column(String(35))
    size: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    store: Mapped[str] = mapped_column(String(64))
    object_key: Mapped[str] = mapped_column(String(512))
    created_us: Mapped[int] = mapped_column(MICROSECONDS)
    __table_args__ = (
        Index("ux_representation", "document_id", "version", "media_type", "language", unique=True),
        Index("ix_representation_object", "store", "object_key"),
    )


class SearchParameter(Base):
    """A document's value for one of its type's search parameters, as a keyed hash of the normal form."""

    __tablename__ = "search_parameter"
    document_id: Mapped[str] = mapped_column(ForeignKey("document.document_id"), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    value_hash: Mapped[str] = mapped_column(String(64))
    __table_args__ = (Index("ix_search_parameter", "name", "value_hash"),)


class PendingMatch(Base):
    """A pull that came near a document and waits for an officer."""

    __tablename__ = "pending_match"
    match_id: Mapped[str] = mapped_column(String(36), primary_key=True)
    document_id: Mapped[str] = mapped_column(ForeignKey("document.document_id"))
    locker: Mapped[str] = mapped_column(String(255))
    resident_ref: Mapped[str] = mapped_column(String(128))
    reason: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(String(16), default="pending")
    created_us: Mapped[int] = mapped_column(MICROSECONDS)
    __table_args__ = (UniqueConstraint("document_id", "locker", "resident_ref"),)


class PullTry(Base):
    """How often a resident, or anybody at an issuer, has searched in one window of time."""

    __tablename__ = "pull_try"
    subject: Mapped[str] = mapped_column(String(255), primary_key=True)
    window_us: Mapped[int] = mapped_column(MICROSECONDS, primary_key=True)
    tries: Mapped[int] = mapped_column(Integer)


class PullTransaction(Base):
    """The answer given to a pull, so that the same transaction asked again gets the same answer."""

    __tablename__ = "pull_transaction"
    locker: Mapped[str] = mapped_column(String(255), primary_key=True)
    txn: Mapped[str] = mapped_column(String(64), primary_key=True)
    request_hash: Mapped[str] = mapped_column(String(64))
    answer: Mapped[str] = mapped_column(Text)
    created_us: Mapped[int] = mapped_column(MICROSECONDS)


class AccessEvent(Base):
    """The durable log row: RFC 8785 JSON exactly as written, and the nonce of its commitment."""

    __tablename__ = "access_event"
    event_id: Mapped[str] = mapped_column(String(36), primary_key=True)
    payload: Mapped[bytes] = mapped_column(LargeBinary)
    nonce: Mapped[bytes] = mapped_column(LargeBinary)


class AccessUnsequenced(Base):
    """Events that the sequencer has not placed yet."""

    __tablename__ = "access_unsequenced"
    event_id: Mapped[str] = mapped_column(String(36), primary_key=True)


class AccessPosition(Base):
    """An event's place in the log, its number among its document's events, and its Merkle leaf."""

    __tablename__ = "access_position"
    position: Mapped[int] = mapped_column(ROW_ID, primary_key=True, autoincrement=False)
    event_id: Mapped[str] = mapped_column(ForeignKey("access_event.event_id"), unique=True)
    doc_tag: Mapped[str] = mapped_column(String(64))
    doc_n: Mapped[int] = mapped_column(BigInteger)
    commitment: Mapped[bytes] = mapped_column(LargeBinary)
    leaf: Mapped[bytes] = mapped_column(LargeBinary)
    __table_args__ = (UniqueConstraint("doc_tag", "doc_n"),)


class LogHead(Base):
    """How many positions there are; advanced by compare-and-set in the transaction that fills them."""

    __tablename__ = "log_head"
    head_id: Mapped[int] = mapped_column(Integer, primary_key=True)
    size: Mapped[int] = mapped_column(BigInteger)
    epoch: Mapped[str] = mapped_column(String(36))


class AccessIndex(Base):
    """Payload fields by position, for the log's filters; as wide as what callers may send, so that no row can stop the sequencer."""

    __tablename__ = "access_index"
    position: Mapped[int] = mapped_column(ROW_ID, primary_key=True, autoincrement=False)
    at_us: Mapped[int] = mapped_column(MICROSECONDS)
    action: Mapped[str] = mapped_column(String(20))
    outcome: Mapped[str] = mapped_column(String(20))
    uri_key: Mapped[str | None] = mapped_column(Text)
    issuer_key: Mapped[str | None] = mapped_column(String(128))
    doc_type_key: Mapped[str | None] = mapped_column(String(32))
    holder_ref: Mapped[str | None] = mapped_column(String(512))
    client_id: Mapped[str | None] = mapped_column(String(512))
    consent_id: Mapped[str | None] = mapped_column(String(512))
    __table_args__ = (
        Index("ix_access_uri", "uri_key", "position"),
        Index("ix_access_holder", "holder_ref", "position"),
        Index("ix_access_client", "client_id", "position"),
        Index("ix_access_consent", "consent_id", "position"),
        Index("ix_access_time", "at_us"),
    )


class OpenRead(Base):
    """A read whose end row has not been sequenced; what is left of a dead process is closed as interrupted."""

    __tablename__ = "open_read"
    read_id: Mapped[str] = mapped_column(String(36), primary_key=True)
    process_id: Mapped[str] = mapped_column(String(36), index=True)
    event_id: Mapped[str] = mapped_column(String(36))


class ServingProcess(Base):
    """A process that may have reads open."""

    __tablename__ = "serving_process"
    process_id: Mapped[str] = mapped_column(String(36), primary_key=True)
    instance: Mapped[str] = mapped_column(String(255), index=True)
    started_us: Mapped[int] = mapped_column(MICROSECONDS)
    heartbeat_us: Mapped[int] = mapped_column(MICROSECONDS)
    ended_us: Mapped[int | None] = mapped_column(MICROSECONDS)


class AccessToken(Base):
    """A role token of a person or tool; only the SHA-256 of its 256 random bits is kept."""

    __tablename__ = "access_token"
    token_id: Mapped[str] = mapped_column(String(36), primary_key=True)
    token_hash: Mapped[str] = mapped_column(String(64), unique=True)
    name: Mapped[str] = mapped_column(String(200))
    role: Mapped[str] = mapped_column(String(16))
    scope: Mapped[str] = mapped_column(Text, default="{}")
    created_us: Mapped[int] = mapped_column(MICROSECONDS)
    expires_us: Mapped[int] = mapped_column(MICROSECONDS)
    revoked_us: Mapped[int | None] = mapped_column(MICROSECONDS)


class Locker(Base):
    """A locker that this node is registered with: its keys, and how far its revocation list is known.

    ``announced_after`` is the last document of those that were here before it, announced so far; None once all are.
    """

    __tablename__ = "locker"
    iss: Mapped[str] = mapped_column(String(255), primary_key=True)
    base_url: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(String(16))
    jwks: Mapped[str] = mapped_column(Text)
    jwks_fetched_us: Mapped[int] = mapped_column(MICROSECONDS)
    encryption_key: Mapped[str | None] = mapped_column(Text)
    endpoints: Mapped[str] = mapped_column(Text)
    list_sequence: Mapped[int] = mapped_column(BigInteger, default=0)
    list_digest: Mapped[str | None] = mapped_column(String(64))
    list_issued_us: Mapped[int] = mapped_column(MICROSECONDS, default=0)
    list_next_update_us: Mapped[int] = mapped_column(MICROSECONDS, default=0)
    list_refusals: Mapped[int] = mapped_column(Integer, default=0)
    list_refused: Mapped[str | None] = mapped_column(String(32))
    links_after: Mapped[int] = mapped_column(BigInteger, default=0)
    announced_after: Mapped[str | None] = mapped_column(String(36))
    push_failures: Mapped[int] = mapped_column(Integer, default=0)
    push_next_us: Mapped[int] = mapped_column(MICROSECONDS, default=0)
    registered_us: Mapped[int] = mapped_column(MICROSECONDS)
    list_kid: Mapped[str | None] = mapped_column(String(128))
    revoked_keys: Mapped[str] = mapped_column(Text, server_default="[]")
    root_key: Mapped[str | None] = mapped_column(Text)
    root_offered: Mapped[str | None] = mapped_column(Text)
    key_list_sequence: Mapped[int] = mapped_column(BigInteger, server_default="0")
    key_list_digest: Mapped[str | None] = mapped_column(String(64))
    key_list_refused: Mapped[str | None] = mapped_column(String(32))


class RevocationEntryRow(Base):
    """Tickets of a locker under a consent, issued at or before a moment, are void."""

    __tablename__ = "revocation_entry"
    iss: Mapped[str] = mapped_column(ForeignKey("locker.iss"), primary_key=True)
    consent_id: Mapped[str] = mapped_column(String(512), primary_key=True)
    void_before_us: Mapped[int] = mapped_column(MICROSECONDS)


class OutboxRow(Base):
    """One announcement to one locker, deleted when the locker has acknowledged it; what it says is read when it is sent."""

    __tablename__ = "outbox"
    row_id: Mapped[str] = mapped_column(String(36), primary_key=True)
    iss: Mapped[str] = mapped_column(String(255))
    document_id: Mapped[str] = mapped_column(String(36))
    revision: Mapped[int] = mapped_column(Integer)
    kind: Mapped[str] = mapped_column(String(16))
    state: Mapped[str] = mapped_column(String(16), default="waiting")
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    next_try_us: Mapped[int] = mapped_column(MICROSECONDS, default=0)
    result: Mapped[str | None] = mapped_column(Text)
    created_us: Mapped[int] = mapped_column(MICROSECONDS)
    __table_args__ = (Index("ix_outbox_due", "iss", "state", "next_try_us"), Index("ix_outbox_document", "document_id"))


class HolderSeal(Base):
    """A document's holder value, sealed to each locker's encryption key until that locker has acknowledged it."""

    __tablename__ = "holder_seal"
    document_id: Mapped[str] = mapped_column(ForeignKey("document.document_id"), primary_key=True)
    iss: Mapped[str] = mapped_column(String(255), primary_key=True)
    key_id: Mapped[str] = mapped_column(String(128))
    sealed: Mapped[str] = mapped_column(Text)


class Lease(Base):
    """Who runs a job; ``fence`` grows with each change of hands, and jobs write only under their own."""

    __tablename__ = "lease"
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    owner: Mapped[str] = mapped_column(String(64))
    fence: Mapped[int] = mapped_column(BigInteger)
    expires_us: Mapped[int] = mapped_column(MICROSECONDS)
