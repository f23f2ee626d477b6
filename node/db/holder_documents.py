"""Documents by their holder's keyed hash, as the look-up service asks for them."""

from collections.abc import Sequence

from node.db.catalogue import documents_of_holder
from node.db.session import Database
from node.services.ports import CatalogueDocument


class HolderDocuments:
    """Finds documents by holder, each call one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of_holder(self, scheme: str, holder_hash: str) -> Sequence[CatalogueDocument]:
        """Return all documents whose holder has this hash, in order of their URIs."""
        with self._database.reading() as connection:
            return documents_of_holder(connection, scheme, holder_hash)
