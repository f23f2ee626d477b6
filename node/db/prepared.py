"""Statements on the hot path, sent through the driver's own cursor with SQL text that is kept.

SQLAlchemy writes the text, once for each dialect and number of values; running a statement through it costs forty times what
SQLite needs for the work itself, and each read waits for half a dozen. Values are bound by the driver, errors come out as
SQLAlchemy's own. The caller's transaction must have begun.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Dialect, Insert
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql import ClauseElement
from sqlalchemy.sql.compiler import SQLCompiler

MOST_ROWS = 64
"""How many rows one INSERT has at most; each number of rows has a text of its own."""
MOST_VALUES = 512
"""How many values an IN has at most."""


def run_driver_sql(connection: Connection, text: str, values: Sequence[Any] = (), *, fetch: bool = False) -> list[Any]:
    """Run one statement and return its rows, as the driver's tuples, if they are asked for; raises DBAPIError."""
    cursor = connection.connection.cursor()
    try:
        cursor.execute(text, values)
        return list(cursor.fetchall()) if fetch else []
    except Exception as error:
        raise _as_sqlalchemy(connection, cursor, text, error) from error
    finally:
        cursor.close()


class _PreparedIn:
    """A statement with one parameter, the values or tuples of an IN."""

    def __init__(self, statement: ClauseElement, parameter: str, width: int = 1) -> None:
        """``width`` is the number of columns that are compared, more than one for tuples."""
        self._statement = statement
        self._parameter = parameter
        self._width = width
        self._texts: dict[tuple[str, int], str] = {}

    def _run(self, connection: Connection, values: Sequence[Any], *, fetch: bool) -> list[Any]:
        rows: list[Any] = []
        for start in range(0, len(values), MOST_VALUES):
            rows += self._run_part(connection, values[start : start + MOST_VALUES], fetch=fetch)
        return rows

    def _run_part(self, connection: Connection, values: Sequence[Any], *, fetch: bool) -> list[Any]:
        # The last value is repeated up to a power of two: a handful of texts for the database to keep instead of hundreds.
        count = 1 << (len(values) - 1).bit_length()
        key = (connection.dialect.name, count)
        text = self._texts.get(key) or self._texts.setdefault(key, self._text(connection.dialect, count))
        filled = [*values, *[values[-1]] * (count - len(values))]
        if self._width > 1:
            filled = [item for value in filled for item in value]
        return run_driver_sql(connection, text, filled, fetch=fetch)

    def _text(self, dialect: Dialect, count: int) -> str:
        example: Any = "" if self._width == 1 else ("",) * self._width
        compiled = self._statement.compile(dialect=_positional(dialect))
        if not isinstance(compiled, SQLCompiler):
            raise TypeError("a statement has no SQL text")
        return str(compiled.construct_expanded_state({self._parameter: [example] * count}).statement)


class PreparedSelect(_PreparedIn):
    """A SELECT of the rows whose columns are among given values."""

    def rows(self, connection: Connection, values: Sequence[Any]) -> list[Any]:
        """Return the rows as plain tuples, in no order; many values are asked for in several statements."""
        return self._run(connection, values, fetch=True)


class PreparedDelete(_PreparedIn):
    """A DELETE of the rows whose columns are among given values."""

    def run(self, connection: Connection, values: Sequence[Any]) -> None:
        """Delete the rows; many values take several statements."""
        self._run(connection, values, fetch=False)


class PreparedInsert:
    """An INSERT of many rows in one statement, or in few.

    One statement for all means that the interpreter's lock is let go of once and not once a row.
    """

    def __init__(self, statement: Insert, columns: Sequence[str]) -> None:
        """``columns`` are the names of the row's values in their order."""
        self._statement = statement
        self._columns = columns
        self._texts: dict[tuple[str, int], str] = {}

    def run(self, connection: Connection, rows: Sequence[Sequence[Any]]) -> None:
        """Insert the rows, each with its values in the order of the columns."""
        for start in range(0, len(rows), MOST_ROWS):
            part = rows[start : start + MOST_ROWS]
            key = (connection.dialect.name, len(part))
            text = self._texts.get(key) or self._texts.setdefault(key, self._text(connection.dialect, len(part)))
            run_driver_sql(connection, text, [value for row in part for value in row])

    def _text(self, dialect: Dialect, count: int) -> str:
        compiled = self._statement.compile(dialect=_positional(dialect), column_keys=list(self._columns))
        if not isinstance(compiled, SQLCompiler) or compiled.positiontup != list(self._columns):
            raise ValueError("the columns are to be named in the table's order")
        head, _, row = str(compiled).partition(" VALUES ")
        return f"{head} VALUES {', '.join([row] * count)}"


def _positional(dialect: Dialect) -> Dialect:
    """Return the dialect with parameters by position, whatever style it was opened with."""
    if not isinstance(dialect, DefaultDialect):
        raise TypeError("a dialect that takes no style of parameters")
    return type(dialect)(paramstyle="qmark" if dialect.paramstyle == "qmark" else "format")


def _as_sqlalchemy(connection: Connection, cursor: Any, text: str, error: Exception) -> BaseException:
    """Return a driver's error as SQLAlchemy has it; a connection that is broken is not used again."""
    dialect = connection.dialect
    base = dialect.loaded_dbapi.Error
    if not isinstance(error, base):
        return error
    broken = dialect.is_disconnect(error, connection.connection, cursor)
    if broken:
        connection.invalidate(error)
    return DBAPIError.instance(
        text, None, error, base, hide_parameters=True, connection_invalidated=broken, dialect=dialect
    )
