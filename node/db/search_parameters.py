"""Search parameters of documents, kept as keyed hashes of their normal form; ``node.services.matching`` says what that form is."""

from collections.abc import Mapping

from sqlalchemy import Connection, delete, insert

from node.db.models import SearchParameter
from node.services.matching import parameter_form, parameter_hash

# Built once: putting a statement together costs more than running it.
_INSERT = insert(SearchParameter)


def add_parameters(connection: Connection, key: bytes, document_id: str, parameters: Mapping[str, str]) -> None:
    """Insert the search parameters of a document that has none yet; one that looks empty cannot be searched."""
    rows = [
        {"document_id": document_id, "name": name, "value_hash": parameter_hash(key, name, value)}
        for name, value in parameters.items()
        if parameter_form(value)
    ]
    if rows:
        connection.execute(_INSERT, rows)


def replace_parameters(connection: Connection, key: bytes, document_id: str, parameters: Mapping[str, str]) -> None:
    """Put other search parameters in place of a document's present ones."""
    connection.execute(delete(SearchParameter).where(SearchParameter.document_id == document_id))
    add_parameters(connection, key, document_id, parameters)
