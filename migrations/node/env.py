"""Alembic environment of the node's history; the connection is handed over by ``node.db.schema``."""

from alembic import context

from node.db.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table="node_version",
    render_as_batch=False,
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
