"""Looking up a person: which documents of an auditor's own issuers have this holder."""

from collections.abc import Sequence
from typing import Any, Protocol

from node.contract.holders import Holder, InvalidHolder
from node.contract.problems import UnacceptableContent
from node.services.access import TokenScope
from node.services.ports import CatalogueDocument

MOST_MATCHES = 1000


class HolderDocuments(Protocol):
    """Finds documents by their holder's keyed hash."""

    def of_holder(self, scheme: str, holder_hash: str) -> Sequence[CatalogueDocument]:
        """Return all documents whose holder has this hash, in order of their URIs."""


class HolderLookup:
    """Finds a person's documents; the value given is hashed and forgotten."""

    def __init__(self, documents: HolderDocuments, hash_key: bytes) -> None:
        self._documents = documents
        self._hash_key = hash_key

    def holder(self, scheme: str, value: str) -> tuple[str, str]:
        """Return scheme and keyed hash of an identifier, the form in which it may be logged; raises UnacceptableContent."""
        try:
            known = Holder.parse(scheme, value)
        except InvalidHolder as error:
            raise UnacceptableContent(str(error), reason="bad-identifier") from None
        return known.scheme, known.keyed_hash(self._hash_key)

    def find(self, scheme: str, holder_hash: str, scope: TokenScope) -> list[dict[str, Any]]:
        """Return the documents within a scope, at most 1000, as the specification's ``matches``."""
        found = self._documents.of_holder(scheme, holder_hash)
        covered = [document for document in found if scope.covers(document.uri, document.office)]
        return [
            {
                "issuer": document.uri.issuer, "doc_type": document.uri.doc_type, "uri": str(document.uri),
                "holder_ref": document.holder_ref, "last4": document.holder_last4 or "",
            }
            for document in covered[:MOST_MATCHES]
        ]  # fmt: skip
