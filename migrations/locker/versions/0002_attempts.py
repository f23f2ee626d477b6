"""Attempts without a ticket: refused, failed, and auditors' queries; positions are of the ledger, whose head row is there."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

kind = "expand"


def upgrade() -> None:
    op.create_table(
        "attempt",
        sa.Column("position", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("operation", sa.String(length=16), nullable=True),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.String(length=64), nullable=True),
        sa.Column("role", sa.String(length=16), nullable=True),
        sa.Column("subject", sa.String(length=128), nullable=True),
        sa.Column("source", sa.String(length=64), nullable=True),
        sa.Column("act", sa.String(length=32), nullable=True),
        sa.Column("uri", sa.String(length=290), nullable=True),
        sa.Column("consent_id", sa.String(length=36), nullable=True),
        sa.Column("jti", sa.String(length=36), nullable=True),
        sa.Column("query", sa.Text(), nullable=True),
        sa.Column("count", sa.BigInteger(), nullable=True),
        sa.Column("request_id", sa.String(length=64), nullable=True),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("position"),
    )
    op.create_index("ix_attempt_subject", "attempt", ["subject", "position"], unique=False)
    op.create_index("ix_attempt_consent", "attempt", ["consent_id", "position"], unique=False)
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE TRIGGER attempt_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON attempt "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
        return
    for verb in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER attempt_no_{verb.lower()} BEFORE {verb} ON attempt "
            "BEGIN SELECT RAISE(ABORT, 'attempt is append-only'); END"
        )


def downgrade() -> None:
    if op.get_bind().execute(sa.select(sa.func.count()).select_from(sa.table("attempt"))).scalar_one():
        raise RuntimeError("attempt holds records; export them and empty the database by hand before going down")
    op.drop_index("ix_attempt_consent", table_name="attempt")
    op.drop_index("ix_attempt_subject", table_name="attempt")
    op.drop_table("attempt")
