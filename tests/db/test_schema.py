"""Migrations: up, down and up again, equal to the models, and never at the price of log rows."""

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from node.db import schema
from node.db.audit_log import append_events
from node.db.models import Base
from node.db.session import Database, NotDurable
from node.services.audit import encode_event


@pytest.fixture
def database(database_url):
    database = Database(database_url)
    yield database
    database.close()


def test_up_down_up_leaves_what_the_models_say(database):
    schema.upgrade(database)
    schema.downgrade(database, "base")
    with pytest.raises(schema.SchemaOutdated, match="db upgrade"):
        schema.require_current(database)
    schema.upgrade(database)
    schema.require_current(database)
    with database.reading() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": schema.VERSION_TABLE})
        assert compare_metadata(context, Base.metadata) == []


def test_the_newest_revision_and_the_databases_are_those_that_alembic_names(database):
    assert schema.newest_revision() == ScriptDirectory("migrations/node").get_current_head()
    assert schema.current_revision(database) is None
    schema.upgrade(database, "n0001")
    assert schema.current_revision(database) == "n0001"


def test_downgrade_keeps_log_rows(database):
    schema.upgrade(database)
    with database.writing() as connection:
        append_events(connection, [encode_event({"action": "read"}, 1)])
    with pytest.raises(RuntimeError, match="not dropped"):
        schema.downgrade(database, "base")
    schema.require_current(database)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM access_position",
        "UPDATE access_position SET doc_n = doc_n + 1",
        "DELETE FROM access_event",
        "UPDATE access_event SET payload = 'x'",
        "UPDATE log_head SET size = 0",
        "DELETE FROM log_head",
    ],
)
def test_the_log_refuses_changes(database, statement):
    from node.db.sequencer import sequence_once

    schema.upgrade(database)
    with database.writing() as connection:
        append_events(connection, [encode_event({"action": "read", "outcome": "refused"}, 1)])
    assert sequence_once(database, b"key") == 1
    with pytest.raises(DBAPIError, match="append-only"), database.writing() as connection:
        connection.execute(text(statement))


def test_erasing_a_payload_is_allowed(database):
    schema.upgrade(database)
    with database.writing() as connection:
        append_events(connection, [encode_event({"action": "read"}, 1)])
        connection.execute(text("UPDATE access_event SET payload = '', nonce = ''"))


def test_a_database_that_does_not_wait_for_the_disk_is_refused(database, postgresql_server):
    database.require_durable()
    if database.is_sqlite:
        with database.engine.connect() as connection:
            connection.connection.dbapi_connection.execute("PRAGMA synchronous=NORMAL")
        with pytest.raises(NotDurable, match="synchronous"):
            database.require_durable()
    else:
        with database.writing() as connection:
            connection.execute(text("ALTER ROLE locker SET synchronous_commit = off"))
        database.close()
        try:
            with pytest.raises(NotDurable, match="synchronous_commit=off"):
                database.require_durable()
        finally:
            with database.writing() as connection:
                connection.execute(text("ALTER ROLE locker RESET synchronous_commit"))
