"""Statements on the path that every ticket takes, sent through the driver's own cursor with SQL text that is kept.

SQLAlchemy writes the text, once for each dialect and number of values. Running a statement through it costs several times what
the database needs for the work itself. Values are bound by the driver, errors come out as SQLAlchemy's own; the caller's
transaction must have begun. Nodes have the like in a room that the locker does not enter: the two share no database code.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Dialect, Insert
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql import ClauseElement
from sqlalchemy.sql.compiler import SQLCompiler

_MOST_ROWS = 64


class PreparedStatement:
    """A statement whose parameters are single values, given in the order of their places."""

    def __init__(self, statement: ClauseElement, *parameters: str) -> None:
        self._statement = statement
        self._parameters = list(parameters)
        self._texts: dict[str, str] = {}

    def rows(self, connection: Connection, *values: Any) -> list[Any]:
        """Run the statement and return its rows as plain tuples."""
        name = connection.dialect.name
        text = self._texts.get(name) or self._texts.setdefault(name, self._text(connection.dialect))
        return _run(connection, text, values, fetch=True)

    def _text(self, dialect: Dialect) -> str:
        compiled = _compiled(self._statement, dialect)
        if compiled.positiontup != self._parameters:
            raise ValueError("the parameters are to be named in the order of their places")
        return str(compiled)


class PreparedSelect:
    """A SELECT whose parameters are the values of an IN each."""

    def __init__(self, statement: ClauseElement, *parameters: str) -> None:
        """``parameters`` are the names of the INs in their order."""
        self._statement = statement
        self._parameters = parameters
        self._texts: dict[tuple[str, tuple[int, ...]], str] = {}

    def rows(self, connection: Connection, *lists: Sequence[Any]) -> list[Any]:
        """Return the rows as plain tuples, in the statement's order; no list may be empty."""
        # The last value is repeated up to a power of two: a handful of texts for the database to keep instead of hundreds.
        filled = [[*values, *[values[-1]] * ((1 << (len(values) - 1).bit_length()) - len(values))] for values in lists]
        key = (connection.dialect.name, tuple(map(len, filled)))
        text = self._texts.get(key) or self._texts.setdefault(key, self._text(connection.dialect, key[1]))
        return _run(connection, text, [value for values in filled for value in values], fetch=True)

    def _text(self, dialect: Dialect, counts: Sequence[int]) -> str:
        example = {name: [""] * count for name, count in zip(self._parameters, counts, strict=True)}
        state = _compiled(self._statement, dialect).construct_expanded_state(example)
        order = [name.rpartition("_")[0] for name in state.positiontup or ()]
        if order != [name for name, count in zip(self._parameters, counts, strict=True) for _ in range(count)]:
            raise ValueError("the parameters are to be named in the order of their places")
        return str(state.statement)


class PreparedInsert:
    """An INSERT of many rows in one statement, or in few: each number of rows up to 64 has a text of its own."""

    def __init__(self, statement: Insert, columns: Sequence[str]) -> None:
        """``columns`` are the names of the row's values in their order, which is the table's."""
        self._statement = statement
        self._columns = list(columns)
        self._texts: dict[tuple[str, int], str] = {}

    def run(self, connection: Connection, rows: Sequence[Sequence[Any]]) -> None:
        """Insert the rows, each with its values in the order of the columns."""
        for start in range(0, len(rows), _MOST_ROWS):
            part = rows[start : start + _MOST_ROWS]
            key = (connection.dialect.name, len(part))
            text = self._texts.get(key) or self._texts.setdefault(key, self._text(connection.dialect, len(part)))
            _run(connection, text, [value for row in part for value in row], fetch=False)

    def _text(self, dialect: Dialect, count: int) -> str:
        compiled = _compiled(self._statement, dialect, self._columns)
        if compiled.positiontup != self._columns:
            raise ValueError("the columns are to be named in the table's order")
        head, _, row = str(compiled).partition(" VALUES ")
        return f"{head} VALUES {', '.join([row] * count)}"


def _compiled(statement: ClauseElement, dialect: Dialect, columns: list[str] | None = None) -> SQLCompiler:
    """Compile for the dialect with parameters by position, whatever style it was opened with."""
    if not isinstance(dialect, DefaultDialect):
        raise TypeError("a dialect that takes no style of parameters")
    positional = type(dialect)(paramstyle="qmark" if dialect.paramstyle == "qmark" else "format")
    compiled = statement.compile(dialect=positional, column_keys=columns)
    if not isinstance(compiled, SQLCompiler):
        raise TypeError("a statement has no SQL text")
    return compiled


def _run(connection: Connection, text: str, values: Sequence[Any], *, fetch: bool) -> list[Any]:
    """Run one statement and return its rows, if they are asked for; raises DBAPIError."""
    cursor = connection.connection.cursor()
    try:
        cursor.execute(text, values)
        return list(cursor.fetchall()) if fetch else []
    except Exception as error:
        raise _as_sqlalchemy(connection, cursor, text, error) from error
    finally:
        cursor.close()


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
