"""The network that a registration came from, None for those from before."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

kind = "expand"


def upgrade() -> None:
    op.add_column("registration", sa.Column("network", sa.String(length=64), nullable=True))


def downgrade() -> None:
    op.drop_column("registration", "network")
