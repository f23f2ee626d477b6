"""The first tables: directory, clients, residents, links, consents, signed records; and the triggers that keep events as written."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

kind = "expand"

_FEEDS = ("ledger", "links", "revocations")
_APPEND_ONLY = ("consent_event", "ticket_record", "link_event", "revocation_page")
_KEPT = ("consent_event", "ticket_record")


def upgrade() -> None:
    op.create_table(
        "access_token",
        sa.Column("token_hash", sa.String(length=64), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("subject", sa.String(length=128), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("expires_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("token_hash"),
    )
    op.create_index(op.f("ix_access_token_expires_us"), "access_token", ["expires_us"], unique=False)
    op.create_index(op.f("ix_access_token_subject"), "access_token", ["subject"], unique=False)
    op.create_table(
        "alert",
        sa.Column("alert_id", sa.String(length=36), nullable=False),
        sa.Column("node_id", sa.String(length=128), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("alert_id"),
    )
    op.create_index(op.f("ix_alert_node_id"), "alert", ["node_id"], unique=False)
    op.create_table(
        "client",
        sa.Column("client_id", sa.String(length=128), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("secret_hash", sa.String(length=64), nullable=True),
        sa.Column("jwks", sa.Text(), nullable=True),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("client_id"),
    )
    op.create_table(
        "feed_head",
        sa.Column("feed", sa.String(length=16), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("feed"),
    )
    op.create_table(
        "link_event",
        sa.Column("position", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("uri", sa.String(length=290), nullable=False),
        sa.Column("node_id", sa.String(length=128), nullable=False),
        sa.Column("resident_id", sa.String(length=36), nullable=False),
        sa.Column("holder_ref", sa.String(length=64), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("position"),
    )
    op.create_index("ix_link_event_node", "link_event", ["node_id", "position"], unique=False)
    op.create_index("ix_link_event_resident", "link_event", ["resident_id", "position"], unique=False)
    op.create_table(
        "node",
        sa.Column("node_id", sa.String(length=128), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("base_url", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("health", sa.String(length=16), nullable=False),
        sa.Column("health_us", sa.BigInteger(), nullable=True),
        sa.Column("approved_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("node_id"),
    )
    op.create_table(
        "registration",
        sa.Column("registration_id", sa.String(length=36), nullable=False),
        sa.Column("node_id", sa.String(length=128), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("jti", sa.String(length=128), nullable=False),
        sa.Column("claims", sa.Text(), nullable=False),
        sa.Column("received_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("registration_id"),
    )
    op.create_index(op.f("ix_registration_node_id"), "registration", ["node_id"], unique=False)
    op.create_table(
        "resident",
        sa.Column("resident_id", sa.String(length=36), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("resident_id"),
    )
    op.create_table(
        "revocation_page",
        sa.Column("sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("token", sa.Text(), nullable=False),
        sa.Column("issued_us", sa.BigInteger(), nullable=False),
        sa.Column("next_update_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("sequence"),
    )
    op.create_index(op.f("ix_revocation_page_issued_us"), "revocation_page", ["issued_us"], unique=False)
    op.create_table(
        "ticket_record",
        sa.Column("position", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("jti", sa.String(length=36), nullable=False),
        sa.Column("client_id", sa.String(length=128), nullable=False),
        sa.Column("act", sa.String(length=32), nullable=True),
        sa.Column("node_id", sa.String(length=128), nullable=False),
        sa.Column("uri", sa.String(length=290), nullable=False),
        sa.Column("resident_id", sa.String(length=36), nullable=False),
        sa.Column("holder_ref", sa.String(length=64), nullable=False),
        sa.Column("basis", sa.String(length=16), nullable=False),
        sa.Column("consent_id", sa.String(length=36), nullable=True),
        sa.Column("artefact", sa.String(length=64), nullable=True),
        sa.Column("purpose", sa.String(length=32), nullable=False),
        sa.Column("representations", sa.Text(), nullable=True),
        sa.Column("issued_us", sa.BigInteger(), nullable=False),
        sa.Column("expires_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("position"),
        sa.UniqueConstraint("jti"),
    )
    op.create_index("ix_ticket_record_consent", "ticket_record", ["consent_id", "issued_us"], unique=False)
    op.create_index("ix_ticket_record_resident", "ticket_record", ["resident_id", "position"], unique=False)
    op.create_table(
        "used_assertion",
        sa.Column("client_id", sa.String(length=128), nullable=False),
        sa.Column("jti", sa.String(length=128), nullable=False),
        sa.Column("expires_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("client_id", "jti"),
    )
    op.create_index(op.f("ix_used_assertion_expires_us"), "used_assertion", ["expires_us"], unique=False)
    op.create_table(
        "consent",
        sa.Column("consent_id", sa.String(length=36), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("resident_id", sa.String(length=36), nullable=False),
        sa.Column("client_id", sa.String(length=128), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("purpose", sa.String(length=32), nullable=False),
        sa.Column("purpose_text", sa.Text(), nullable=False),
        sa.Column("once", sa.Boolean(), nullable=False),
        sa.Column("artefact_digest", sa.String(length=64), nullable=False),
        sa.Column("given_us", sa.BigInteger(), nullable=False),
        sa.Column("changed_us", sa.BigInteger(), nullable=False),
        sa.Column("expires_us", sa.BigInteger(), nullable=False),
        sa.Column("void_before_us", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["client_id"],
            ["client.client_id"],
        ),
        sa.ForeignKeyConstraint(
            ["resident_id"],
            ["resident.resident_id"],
        ),
        sa.PrimaryKeyConstraint("consent_id"),
        sa.UniqueConstraint("position"),
    )
    op.create_index(op.f("ix_consent_client_id"), "consent", ["client_id"], unique=False)
    op.create_index(op.f("ix_consent_resident_id"), "consent", ["resident_id"], unique=False)
    op.create_table(
        "issuer",
        sa.Column("issuer_key", sa.String(length=128), nullable=False),
        sa.Column("issuer", sa.String(length=128), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("node_id", sa.String(length=128), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("changed_us", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["node_id"],
            ["node.node_id"],
        ),
        sa.PrimaryKeyConstraint("issuer_key"),
    )
    op.create_table(
        "pull_attempt",
        sa.Column("attempt_id", sa.String(length=36), nullable=False),
        sa.Column("resident_id", sa.String(length=36), nullable=False),
        sa.Column("issuer_key", sa.String(length=128), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["resident_id"],
            ["resident.resident_id"],
        ),
        sa.PrimaryKeyConstraint("attempt_id"),
    )
    op.create_index("ix_pull_attempt_resident", "pull_attempt", ["resident_id", "issuer_key", "at_us"], unique=False)
    op.create_table(
        "pushed_row",
        sa.Column("node_id", sa.String(length=128), nullable=False),
        sa.Column("row_id", sa.String(length=64), nullable=False),
        sa.Column("result", sa.Text(), nullable=False),
        sa.Column("stored_us", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["node_id"],
            ["node.node_id"],
        ),
        sa.PrimaryKeyConstraint("node_id", "row_id"),
    )
    op.create_index(op.f("ix_pushed_row_stored_us"), "pushed_row", ["stored_us"], unique=False)
    op.create_table(
        "resident_attribute",
        sa.Column("resident_id", sa.String(length=36), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("source", sa.String(length=32), nullable=False),
        sa.ForeignKeyConstraint(
            ["resident_id"],
            ["resident.resident_id"],
        ),
        sa.PrimaryKeyConstraint("resident_id", "name"),
    )
    op.create_table(
        "resident_identifier",
        sa.Column("resident_id", sa.String(length=36), nullable=False),
        sa.Column("scheme", sa.String(length=16), nullable=False),
        sa.Column("keyed_hash", sa.String(length=64), nullable=False),
        sa.Column("key_version", sa.Integer(), nullable=False),
        sa.Column("last4", sa.String(length=4), nullable=False),
        sa.Column("sealed", sa.Text(), nullable=False),
        sa.Column("source", sa.String(length=32), nullable=False),
        sa.ForeignKeyConstraint(
            ["resident_id"],
            ["resident.resident_id"],
        ),
        sa.PrimaryKeyConstraint("resident_id", "scheme", "keyed_hash"),
    )
    op.create_index("ix_resident_identifier_hash", "resident_identifier", ["keyed_hash", "scheme"], unique=False)
    op.create_table(
        "resident_reference",
        sa.Column("party", sa.String(length=128), nullable=False),
        sa.Column("resident_id", sa.String(length=36), nullable=False),
        sa.Column("reference", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(
            ["resident_id"],
            ["resident.resident_id"],
        ),
        sa.PrimaryKeyConstraint("party", "resident_id"),
        sa.UniqueConstraint("reference"),
    )
    op.create_table(
        "consent_event",
        sa.Column("position", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("consent_id", sa.String(length=36), nullable=False),
        sa.Column("resident_id", sa.String(length=36), nullable=False),
        sa.Column("client_id", sa.String(length=128), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("artefact", sa.Text(), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["consent_id"],
            ["consent.consent_id"],
        ),
        sa.PrimaryKeyConstraint("position"),
        sa.UniqueConstraint("consent_id", "revision", name="uq_consent_event_revision"),
    )
    op.create_index("ix_consent_event_resident", "consent_event", ["resident_id", "position"], unique=False)
    op.create_table(
        "doc_type",
        sa.Column("issuer_key", sa.String(length=128), nullable=False),
        sa.Column("doc_type_key", sa.String(length=32), nullable=False),
        sa.Column("doc_type", sa.String(length=32), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("search_parameters", sa.Text(), nullable=False),
        sa.Column("media_types", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["issuer_key"],
            ["issuer.issuer_key"],
        ),
        sa.PrimaryKeyConstraint("issuer_key", "doc_type_key"),
    )
    op.create_table(
        "link",
        sa.Column("uri_key", sa.String(length=290), nullable=False),
        sa.Column("uri", sa.String(length=290), nullable=False),
        sa.Column("issuer_key", sa.String(length=128), nullable=False),
        sa.Column("issuer", sa.String(length=128), nullable=False),
        sa.Column("doc_type_key", sa.String(length=32), nullable=False),
        sa.Column("doc_type", sa.String(length=32), nullable=False),
        sa.Column("doc_id", sa.String(length=128), nullable=False),
        sa.Column("node_id", sa.String(length=128), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("holder_scheme", sa.String(length=16), nullable=True),
        sa.Column("holder_hash", sa.String(length=64), nullable=True),
        sa.Column("holder_last4", sa.String(length=4), nullable=True),
        sa.Column("resident_id", sa.String(length=36), nullable=True),
        sa.Column("holder_ref", sa.String(length=64), nullable=True),
        sa.Column("linked_us", sa.BigInteger(), nullable=True),
        sa.Column("changed_us", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["issuer_key"],
            ["issuer.issuer_key"],
        ),
        sa.ForeignKeyConstraint(
            ["node_id"],
            ["node.node_id"],
        ),
        sa.ForeignKeyConstraint(
            ["resident_id"],
            ["resident.resident_id"],
        ),
        sa.PrimaryKeyConstraint("uri_key"),
    )
    op.create_index("ix_link_holder", "link", ["holder_hash", "holder_scheme"], unique=False)
    op.create_index("ix_link_resident", "link", ["resident_id", "uri_key"], unique=False)
    op.create_table(
        "consent_item",
        sa.Column("consent_id", sa.String(length=36), nullable=False),
        sa.Column("uri_key", sa.String(length=290), nullable=False),
        sa.Column("uri", sa.String(length=290), nullable=False),
        sa.Column("representations", sa.Text(), nullable=True),
        sa.Column("used_jti", sa.String(length=36), nullable=True),
        sa.ForeignKeyConstraint(
            ["consent_id"],
            ["consent.consent_id"],
        ),
        sa.ForeignKeyConstraint(
            ["uri_key"],
            ["link.uri_key"],
        ),
        sa.PrimaryKeyConstraint("consent_id", "uri_key"),
    )
    heads = sa.table("feed_head", sa.column("feed"), sa.column("position"))
    op.bulk_insert(heads, [{"feed": feed, "position": 0} for feed in _FEEDS])
    _refuse_changes()


def downgrade() -> None:
    _require_nothing_kept()
    op.drop_table("consent_item")
    op.drop_index("ix_link_resident", table_name="link")
    op.drop_index("ix_link_holder", table_name="link")
    op.drop_table("link")
    op.drop_table("doc_type")
    op.drop_index("ix_consent_event_resident", table_name="consent_event")
    op.drop_table("consent_event")
    op.drop_table("resident_reference")
    op.drop_index("ix_resident_identifier_hash", table_name="resident_identifier")
    op.drop_table("resident_identifier")
    op.drop_table("resident_attribute")
    op.drop_index(op.f("ix_pushed_row_stored_us"), table_name="pushed_row")
    op.drop_table("pushed_row")
    op.drop_index("ix_pull_attempt_resident", table_name="pull_attempt")
    op.drop_table("pull_attempt")
    op.drop_table("issuer")
    op.drop_index(op.f("ix_consent_resident_id"), table_name="consent")
    op.drop_index(op.f("ix_consent_client_id"), table_name="consent")
    op.drop_table("consent")
    op.drop_index(op.f("ix_used_assertion_expires_us"), table_name="used_assertion")
    op.drop_table("used_assertion")
    op.drop_index("ix_ticket_record_resident", table_name="ticket_record")
    op.drop_index("ix_ticket_record_consent", table_name="ticket_record")
    op.drop_table("ticket_record")
    op.drop_index(op.f("ix_revocation_page_issued_us"), table_name="revocation_page")
    op.drop_table("revocation_page")
    op.drop_table("resident")
    op.drop_index(op.f("ix_registration_node_id"), table_name="registration")
    op.drop_table("registration")
    op.drop_table("node")
    op.drop_index("ix_link_event_resident", table_name="link_event")
    op.drop_index("ix_link_event_node", table_name="link_event")
    op.drop_table("link_event")
    op.drop_table("feed_head")
    op.drop_table("client")
    op.drop_index(op.f("ix_alert_node_id"), table_name="alert")
    op.drop_table("alert")
    op.drop_index(op.f("ix_access_token_subject"), table_name="access_token")
    op.drop_index(op.f("ix_access_token_expires_us"), table_name="access_token")
    op.drop_table("access_token")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION refuse_change()")


def _refuse_changes() -> None:
    """Make the database itself refuse UPDATE and DELETE on what was recorded."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END $$"
        )
        for table in _APPEND_ONLY:
            op.execute(
                f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
                "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
            )
        return
    for table in _APPEND_ONLY:
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
            )


def _require_nothing_kept() -> None:
    for table in _KEPT:
        if op.get_bind().execute(sa.select(sa.func.count()).select_from(sa.table(table))).scalar_one():
            raise RuntimeError(f"{table} holds records; export them and empty the database by hand before going down")
