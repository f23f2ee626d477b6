"""Each locker's own reference to a holder; the one in the document's row becomes the node's own."""

import sqlalchemy as sa
from alembic import op

revision = "n0003"
down_revision = "n0002"
branch_labels = None
depends_on = None
kind = "expand"


def upgrade() -> None:
    op.create_table(
        "holder_reference",
        sa.Column("own_ref", sa.String(length=128), nullable=False),
        sa.Column("iss", sa.String(length=255), nullable=False),
        sa.Column("holder_ref", sa.String(length=128), nullable=False),
        sa.PrimaryKeyConstraint("own_ref", "iss"),
    )
    op.create_index("ix_holder_reference", "holder_reference", ["holder_ref"], unique=False)
    # What the rows hold was given by the one locker there is. With several nobody can tell by which, and none is noted.
    op.execute(
        "INSERT INTO holder_reference (own_ref, iss, holder_ref) "
        "SELECT DISTINCT document.holder_ref, locker.iss, document.holder_ref FROM document, locker "
        "WHERE document.holder_ref IS NOT NULL AND (SELECT count(*) FROM locker) = 1"
    )


def downgrade() -> None:
    op.drop_table("holder_reference")
