import threading
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from locker.db.migration import (
    VERSION_TABLE,
    SchemaRefused,
    current_revision,
    downgrade,
    newest_revision,
    require_current,
    upgrade,
)
from locker.db.models import FEEDS, Attempt, Base, Client, Consent, ConsentEvent, FeedHead, Resident
from locker.db.session import Database

VERSIONS = Path(__file__).parents[3] / "migrations" / "locker" / "versions"


def add_consent_event(database: Database) -> None:
    with database.write() as session:
        session.add(Resident(resident_id="r", name="R", created_us=1))
        session.add(Client(client_id="c", kind="requester", name="C", state="active", created_us=1))
        session.flush()
        session.add(
            Consent(
                consent_id="k", position=1, resident_id="r", client_id="c", state="active", revision=1, purpose="other",
                purpose_text="", once=False, artefact_digest="", given_us=1, changed_us=1, expires_us=2, void_before_us=0,
            )
        )  # fmt: skip
        session.flush()
        session.add(
            ConsentEvent(
                position=1, consent_id="k", resident_id="r", client_id="c", revision=1, kind="given", artefact="a", at_us=1
            )
        )  # fmt: skip


def test_models_equal_migrations(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": VERSION_TABLE, "compare_type": True, "target_metadata": Base.metadata}
        )
        assert compare_metadata(context, Base.metadata) == []


def test_up_down_up(empty_database: Database) -> None:
    upgrade(empty_database)
    downgrade(empty_database, "base")
    with empty_database.engine.connect() as connection:
        assert set(sa.inspect(connection).get_table_names()) == {VERSION_TABLE}
    upgrade(empty_database)
    require_current(empty_database)
    with empty_database.read() as session:
        assert set(session.scalars(sa.select(FeedHead.feed))) == set(FEEDS)


def test_going_down_refuses_to_drop_consents(database: Database) -> None:
    add_consent_event(database)
    with pytest.raises(RuntimeError, match="consent_event holds records"):
        downgrade(database, "base")
    require_current(database)


@pytest.mark.parametrize("statement", ["UPDATE consent_event SET kind = 'x'", "DELETE FROM consent_event"])
def test_the_database_refuses_to_change_an_event(database: Database, statement: str) -> None:
    add_consent_event(database)
    with pytest.raises(sa.exc.DBAPIError, match="append-only"), database.write() as session:
        session.execute(sa.text(statement))
    with database.read() as session:
        assert session.scalars(sa.select(ConsentEvent.kind)).all() == ["given"]


@pytest.mark.parametrize("statement", ["UPDATE attempt SET reason = NULL", "DELETE FROM attempt"])
def test_the_database_refuses_to_change_an_attempt_or_to_drop_it(database: Database, statement: str) -> None:
    with database.write() as session:
        session.add(Attempt(position=1, operation="resolve", outcome="refused", reason="revoked", at_us=1))
    with pytest.raises(sa.exc.DBAPIError, match="append-only"), database.write() as session:
        session.execute(sa.text(statement))
    with pytest.raises(RuntimeError, match="attempt holds records"):
        downgrade(database, "0001")
    with database.read() as session:
        assert session.scalars(sa.select(Attempt.reason)).all() == ["revoked"]


def test_an_empty_database_is_refused_with_the_command_to_run(empty_database: Database) -> None:
    with pytest.raises(SchemaRefused, match="locker db upgrade"):
        require_current(empty_database)


def test_two_migrations_at_once_make_one_schema(empty_database: Database) -> None:
    errors: list[BaseException] = []

    def migrate() -> None:
        try:
            upgrade(empty_database)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=migrate) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert current_revision(empty_database) == newest_revision()


@pytest.mark.parametrize("path", sorted(VERSIONS.glob("[0-9]*.py")), ids=lambda path: path.stem)
def test_every_revision_says_whether_it_expands_or_contracts(path: Path) -> None:
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.kind in ("expand", "contract")
