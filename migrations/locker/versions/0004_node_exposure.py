"""Whether a node answers requesters themselves; one that was approved before answers them until it registers again."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

kind = "expand"


def upgrade() -> None:
    op.add_column("node", sa.Column("exposure", sa.String(length=16), nullable=False, server_default="direct"))


def downgrade() -> None:
    op.drop_column("node", "exposure")
