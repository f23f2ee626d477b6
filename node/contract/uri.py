"""Document URIs: ``IssuerId-DocType-DocId``, for example ``in.gov.meeseva.ap-INCOM-9606884969``."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from node.contract.problems import MalformedURI, UnknownIssuer

_ISSUER = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,126}[A-Za-z0-9])?\Z")
_DOC_TYPE = re.compile(r"[A-Za-z0-9]{1,32}\Z")
_ANY_URI = re.compile(r"[A-Za-z0-9._~-]{5,290}\Z")
_DOC_ID = re.compile(r"[A-Za-z0-9._~-]{1,128}\Z")

MAX_URI = 128 + 1 + 32 + 1 + 128


class IssuerDirectory:
    """The issuers that a node or locker knows; finds the longest one that a text starts with."""

    def __init__(self, issuers: Iterable[str] = ()) -> None:
        """Take issuer ids in any case; they are compared case-insensitively."""
        self._by_key = {issuer.lower(): issuer for issuer in issuers}

    def __contains__(self, issuer: str) -> bool:
        return issuer.lower() in self._by_key

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_key.values())

    def longest_prefix(self, text: str) -> str | None:
        """Return the longest known issuer that ``text`` continues with a hyphen, as spelled in the text, or None."""
        folded = text.lower()
        end = folded.rfind("-")
        while end > 0:
            if folded[:end] in self._by_key:
                return text[:end]
            end = folded.rfind("-", 0, end)
        return None

    def conflict(self, candidate: str) -> str | None:
        """Return a known issuer that at a hyphen extends, or is extended by, the candidate; None when there is none.

        Two such issuers could both claim one URI, so the second is refused at registration.
        """
        folded = candidate.lower()
        for key, issuer in self._by_key.items():
            if key != folded and (key.startswith(folded + "-") or folded.startswith(key + "-")):
                return issuer
        return None


@dataclass(frozen=True, slots=True)
class DocumentURI:
    """A document's name, kept as its issuer spells it and compared without regard to case."""

    issuer: str
    doc_type: str
    doc_id: str

    @classmethod
    def parse(cls, text: str, issuers: IssuerDirectory) -> "DocumentURI":
        """Cut a URI at the longest known issuer, then the type; the document id keeps its own hyphens. No I/O.

        Raises MalformedURI when no issuer could make it valid, UnknownIssuer when it is well formed but its issuer is not known.
        """
        if not text or len(text) > MAX_URI:
            raise MalformedURI("a document URI has 1 to 290 characters")
        issuer = issuers.longest_prefix(text)
        if issuer is None:
            _require_plausible(text)
            raise UnknownIssuer("no issuer known here begins this URI")
        doc_type, hyphen, doc_id = text[len(issuer) + 1 :].partition("-")
        if not hyphen:
            raise MalformedURI("a document URI is written IssuerId-DocType-DocId")
        return cls.build(issuer, doc_type, doc_id)

    @classmethod
    def build(cls, issuer: str, doc_type: str, doc_id: str) -> "DocumentURI":
        """Make a URI from its parts; raises MalformedURI naming the part that is not allowed."""
        require_issuer(issuer)
        require_doc_type(doc_type)
        if not _DOC_ID.match(doc_id):
            raise MalformedURI("a document id has 1 to 128 letters, digits, or . _ ~ -")
        return cls(issuer, doc_type, doc_id)

    @property
    def key(self) -> str:
        """The form for comparing and storing: ASCII lower case."""
        return str(self).lower()

    def __str__(self) -> str:
        return f"{self.issuer}-{self.doc_type}-{self.doc_id}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DocumentURI) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


def could_be_uri(text: str) -> bool:
    """Tell whether a text has the characters and length of a document URI, so that it is worth looking up."""
    return _ANY_URI.match(text) is not None


def require_issuer(text: str) -> str:
    """Return an issuer id unchanged; raises MalformedURI when it is not 1 to 128 letters, digits, dots and inner hyphens."""
    if not _ISSUER.match(text):
        raise MalformedURI("an issuer id has 1 to 128 letters, digits, dots or inner hyphens")
    return text


def require_doc_type(text: str) -> str:
    """Return a document type unchanged; raises MalformedURI when it is not 1 to 32 letters or digits."""
    if not _DOC_TYPE.match(text):
        raise MalformedURI("a document type has 1 to 32 letters or digits")
    return text


def _require_plausible(text: str) -> None:
    """Raise MalformedURI unless some cut at two hyphens gives three allowed parts."""
    parts = text.split("-")
    for cut in range(1, len(parts) - 1):
        issuer, doc_type, doc_id = "-".join(parts[:cut]), parts[cut], "-".join(parts[cut + 1 :])
        if _ISSUER.match(issuer) and _DOC_TYPE.match(doc_type) and _DOC_ID.match(doc_id):
            return
    raise MalformedURI("a document URI is written IssuerId-DocType-DocId")
