"""A locker's pinned root, the keys that it has revoked, and which key signed the newest revocation page known."""

import sqlalchemy as sa
from alembic import op

revision = "n0002"
down_revision = "n0001"
branch_labels = None
depends_on = None
kind = "expand"

COLUMNS = (
    "list_kid", "revoked_keys", "root_key", "root_offered", "key_list_sequence", "key_list_digest", "key_list_refused",
)  # fmt: skip


def upgrade() -> None:
    op.add_column("locker", sa.Column("list_kid", sa.String(length=128), nullable=True))
    op.add_column("locker", sa.Column("revoked_keys", sa.Text(), nullable=False, server_default="[]"))
    op.add_column("locker", sa.Column("root_key", sa.Text(), nullable=True))
    op.add_column("locker", sa.Column("root_offered", sa.Text(), nullable=True))
    op.add_column("locker", sa.Column("key_list_sequence", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("locker", sa.Column("key_list_digest", sa.String(length=64), nullable=True))
    op.add_column("locker", sa.Column("key_list_refused", sa.String(length=32), nullable=True))


def downgrade() -> None:
    for name in reversed(COLUMNS):
        op.drop_column("locker", name)
