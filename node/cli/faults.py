"""What a fault means to the person at the terminal: an exit status and one plain sentence."""

import click
from sqlalchemy.exc import DBAPIError, NoSuchModuleError, SQLAlchemyError

from node.config import SettingsError
from node.contract.problems import ProblemError
from node.db.schema import SchemaOutdated
from node.db.session import NotDurable
from node.keys import KeyFault
from node.services.errors import Contended, IngestStopped, ManifestRefused, TokenNotFound
from node.services.locker_client import LockerFault
from node.services.registration import NothingToOffer
from node.storage.errors import SettingsError as StoreSettingsError

REFUSED = 1
SETTINGS = 2

_OF_SETTINGS = (SettingsError, StoreSettingsError, KeyFault, NotDurable, SchemaOutdated)
_PLAIN = (ManifestRefused, IngestStopped, TokenNotFound, LockerFault, NothingToOffer)


def status_of(error: Exception) -> tuple[int, str]:
    """Return the exit status and the sentence for a fault; an unknown one is named by its type alone."""
    if isinstance(error, click.ClickException):
        return error.exit_code, error.format_message()
    if isinstance(error, _OF_SETTINGS):
        return SETTINGS, str(error)
    if isinstance(error, _PLAIN):
        return REFUSED, str(error)
    if isinstance(error, ProblemError):
        return REFUSED, error.detail or error.title
    if isinstance(error, Contended):
        return REFUSED, "others are changing the same thing at this moment; try again"
    if isinstance(error, SQLAlchemyError):
        return SETTINGS, database_fault(error)
    if isinstance(error, ModuleNotFoundError):
        return SETTINGS, f"the settings need the Python package {error.name}, which is not installed"
    if isinstance(error, OSError) and error.strerror:
        return REFUSED, f"{error.filename or 'this machine'}: {error.strerror}"
    # Its text may hold anything, a holder's value among it, so it is not shown.
    return REFUSED, f"something went wrong inside: {type(error).__name__}"


def database_fault(error: SQLAlchemyError) -> str:
    """Return a sentence about the database without the statement and its values, which may be personal."""
    if isinstance(error, NoSuchModuleError):
        return "database_url: there is no such kind of database; use sqlite:///… or postgresql+psycopg://…"
    if isinstance(error, DBAPIError) and error.orig is not None:
        said = str(error.orig).strip().splitlines()
        return f"the database cannot be used: {said[0] if said else type(error.orig).__name__}"
    return "the database cannot be used; look at database_url"
