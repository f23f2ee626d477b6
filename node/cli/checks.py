"""What ``check`` looks at. Each look stands alone: one that fails says so and the others go on."""

import shutil
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError

from node.cli.faults import database_fault
from node.config import SETTINGS_FILE, Settings, SettingsError, load_settings
from node.contract.problems import OutOfScope, ProblemError
from node.contract.times import DAY, SECOND, format_time, now_us
from node.db import schema
from node.db.holder_seals import count_unsealed
from node.db.lockers import LockerRecords, LockerRow
from node.db.outbox import Refusal, backlog, refusals
from node.db.schema import SchemaOutdated
from node.db.session import Database, NotDurable
from node.hooks.manager import Plugins
from node.hooks.sinks import AuditSinks
from node.keys import KeyFault, load_keys
from node.services.locker_roots import LockerRoot, root_name
from node.storage.errors import SettingsError as StoreSettingsError
from node.storage.errors import StorageError
from node.storage.guard import GuardedDriver
from node.storage.registry import DriverRegistry
from node.web.production import unfit_for_production

if TYPE_CHECKING:
    from node.web.outbound import OutboundClient

CLOCK_TOLERANCE_SECONDS = 10
CERTIFICATE_WARNING_US = 14 * DAY
_DATE_TOLERANCE_SECONDS = 1
"""A Date header has whole seconds."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: ``ok`` is None for what is only to be known."""

    name: str
    ok: bool | None
    text: str


def check_node(folder: Path) -> list[Finding]:
    """Look at a node's settings, keys, database, stores, space, certificate and lockers."""
    try:
        settings = load_settings(folder)
    except SettingsError as error:
        return [Finding("settings", False, line) for line in str(error).splitlines()]
    findings = [
        Finding("settings", True, f"{settings.folder / SETTINGS_FILE} can be used"),
        *_check_environment(settings),
    ]
    findings += [
        _check_keys(settings),
        *_check_stores(settings),
        *_check_plugins(settings),
        _check_space(settings),
        *_check_tls(settings),
    ]
    database = Database(settings.resolved_database_url)
    try:
        findings += [*_check_database(database, settings)]
    finally:
        database.close()
    return findings


def _check_environment(settings: Settings) -> Iterator[Finding]:
    if settings.environment == "demo":
        yield Finding("environment", None, "this is a demo node; production refuses what it makes")
    for key, text in unfit_for_production(settings):
        yield Finding(key, False, text)


def _check_keys(settings: Settings) -> Finding:
    try:
        load_keys(settings.folder)
    except KeyFault as error:
        return Finding("keys", False, str(error))
    return Finding("keys", True, "all are there, and other users cannot read them")


def _check_stores(settings: Settings) -> Iterator[Finding]:
    registry = DriverRegistry.with_installed()
    for name, broken in registry.broken().items():
        yield Finding(f"driver {name}", None, broken)
    for name, store in settings.stores.items():
        try:
            driver = GuardedDriver(registry.create(store.driver, store.options, settings.folder), name=name)
        except (StoreSettingsError, StorageError) as error:
            yield Finding(f"store {name}", False, str(error))
            continue
        for what, finding in driver.health().findings.items():
            yield Finding(f"store {name}, {what}", finding.ok, _sentence(finding.sentence))
        driver.close()


def _check_plugins(settings: Settings) -> Iterator[Finding]:
    plugins = Plugins(settings.plugins)
    AuditSinks(plugins.audit_sinks).close()
    for report in plugins.reports:
        name = f"plugin {report.name}"
        if report.trouble is None:
            yield Finding(name, True, f"it is loaded, from {report.distribution}")
        else:
            yield Finding(name, False, f"it is left out ({report.distribution}): {report.trouble}")


def _check_space(settings: Settings) -> Finding:
    free, reserve = shutil.disk_usage(settings.folder).free, settings.reserve_bytes
    text = f"{_size(free)} free in the node's folder, the reserve for the access log is {_size(reserve)}"
    return Finding("free space", free >= reserve, text)


def _check_tls(settings: Settings) -> Iterator[Finding]:
    if settings.tls_certificate is None or settings.tls_key is None:
        return
    from cryptography import x509

    certificate, key = settings.path(settings.tls_certificate), settings.path(settings.tls_key)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
        until = x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else "they do not fit together"
        yield Finding("tls", False, f"{certificate} and {key} cannot be used: {why}")
        return
    left = int(until.timestamp()) * SECOND - now_us()
    text = f"the certificate is good until {until.date().isoformat()}"
    yield Finding("tls", False if left <= 0 else None if left < CERTIFICATE_WARNING_US else True, text)


def _check_database(database: Database, settings: Settings) -> Iterator[Finding]:
    try:
        database.require_durable()
        kind = "SQLite" if database.is_sqlite else "PostgreSQL"
        yield Finding("database", True, f"{kind} answers, and what it has committed survives a crash")
        schema.require_current(database)
        yield Finding("schema", True, "the database is as this release needs it")
        yield from _check_lockers(database, settings)
    except NotDurable as error:
        yield Finding("database", False, str(error))
    except SchemaOutdated as error:
        yield Finding("schema", False, str(error))
    except SQLAlchemyError as error:
        yield Finding("database", False, database_fault(error))


def _check_lockers(database: Database, settings: Settings) -> Iterator[Finding]:
    records = LockerRecords(database)
    lockers = records.all()
    if not lockers:
        yield Finding("lockers", None, "this node is not registered with a locker yet: locker-node register URL")
        return
    from node.web.outbound import OutboundClient  # its library is large

    client = OutboundClient(allow_private=settings.allow_private)
    try:
        for locker in lockers:
            yield _check_state(locker)
            yield from _check_root(locker.iss, records.root(locker.iss))
            yield _check_clock(client, locker)
            with database.reading() as connection:
                waiting, refused = backlog(connection, locker.iss), refusals(connection, locker.iss)
                unsealed = count_unsealed(connection, locker.iss)
            yield Finding(f"{locker.iss}, push", True, f"{waiting.waiting} announcements wait")
            for line in refusal_lines(locker.iss, refused):
                yield Finding(f"{locker.iss}, push", False, line)
            if unsealed:
                text = (
                    f"{unsealed} documents were ingested before this locker was active, and their holders' values are no longer "
                    "here. It can link them when their manifest is ingested again: locker-node ingest MANIFEST.csv"
                )
                yield Finding(f"{locker.iss}, holders", False, text)
    finally:
        client.close()


def refusal_lines(iss: str, refused: Sequence[Refusal]) -> list[str]:
    """Say what a locker refused, document type by document type, and what to do about it."""
    return [
        f"{row.count} of {row.issuer}-{row.doc_type} refused: {row.reason}. "
        + (
            f"Have the type approved: locker-node register {iss}"
            if row.reason == OutOfScope.slug
            else "When that is mended: locker-node push --retry-refused"
        )
        for row in refused
    ]


def _check_state(locker: LockerRow) -> Finding:
    name = f"{locker.iss}, revocation list"
    if locker.state != "active":
        return Finding(f"{locker.iss}", None, f"the registration is {locker.state}")
    if not locker.list_issued_us:
        return Finding(name, None, "none has been fetched yet; serve does that")
    if locker.list_next_update_us < now_us():
        return Finding(
            name, False, f"it is stale; the last is of {format_time(locker.list_issued_us)}. Is serve running?"
        )
    return Finding(name, True, f"it is fresh, of {format_time(locker.list_issued_us)}")


def _check_root(iss: str, root: LockerRoot | None) -> Iterator[Finding]:
    name = f"{iss}, root"
    if root is None:
        return
    if root.pinned is None:
        text = "none is pinned, so a stolen key of this locker cannot be revoked here."
        if root.offered:
            text += f" The locker shows {root_name(root.offered)}; to pin it: locker-node register {iss}"
        yield Finding(name, None, text)
        return
    if root.offered is None:
        yield Finding(name, True, f"{root_name(root.pinned)} is pinned; it has revoked {len(root.revoked)} keys")
    else:
        text = (
            f"{root_name(root.pinned)} is pinned, and the locker shows {root_name(root.offered)}: nothing new of it is believed. Ask "
            f"its operator; if it was changed on purpose: locker-node register {iss} --accept-root FINGERPRINT"
        )
        yield Finding(name, False, text)
    if root.list_refused:
        text = (
            f"the list of revoked keys that the locker publishes was refused ({root.list_refused}); the one known stays"
        )
        yield Finding(name, False, text)


def _check_clock(client: "OutboundClient", locker: LockerRow) -> Finding:
    name = f"{locker.iss}, clock"
    try:
        before = datetime.now(UTC)
        response = client.request("GET", f"{locker.base_url}/healthz")
        after = datetime.now(UTC)
        theirs = parsedate_to_datetime(response.headers.get("date", ""))
    except ProblemError as error:
        return Finding(name, None, f"the locker cannot be asked: {_sentence(error.detail or error.title)}")
    except ValueError:
        return Finding(name, None, "the locker does not tell its time")
    ahead = (before - theirs).total_seconds() - _DATE_TOLERANCE_SECONDS
    behind = (theirs - after).total_seconds()
    difference = max(ahead, behind, 0)
    text = "agrees with the locker's" if difference <= 1 else f"differs from the locker's by {difference:.0f} seconds"
    return Finding(name, difference <= CLOCK_TOLERANCE_SECONDS, f"this machine's {text}")


def _sentence(text: str) -> str:
    return text[:1].lower() + text[1:]


def _size(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
