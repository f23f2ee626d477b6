"""Alembic's environment for the locker: it works on the connection, and inside the lock, that locker.db.migration opens."""

from alembic import context

from locker.db.migration import VERSION_TABLE
from locker.db.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table=VERSION_TABLE,
    transaction_per_migration=False,
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
