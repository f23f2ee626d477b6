"""What an ingest will do to a document: a pure decision over what the catalogue has and what the rows of one URI say."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from node.contract.holders import Holder
from node.contract.problems import Conflict
from node.contract.uri import DocumentURI
from node.services.candidates import Candidate
from node.services.cataloguing import HolderColumns
from node.services.ports import CatalogueDocument, Placement
from node.services.storing import Content, Fate, Intention, intend, place

CHANGED = "changed"
"""The fate of a row that brings other metadata and the same bytes."""

Form = tuple[str, str | None]
"""Media type and language: what tells a document's representations apart."""


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """A checked row whose file has been measured."""

    candidate: Candidate
    content: Content

    @property
    def form(self) -> Form:
        """Which of the document's representations the file is."""
        return self.content.media_type, self.content.language


@dataclass(frozen=True, slots=True)
class Known:
    """What the catalogue has of a URI, and which of its forms earlier rows of the same run have settled.

    ``unsealed`` says that a locker waits for the holder's value, which only a row can bring.
    """

    document: CatalogueDocument | None
    holder_hash: str | None = None
    settled: Collection[Form] = ()
    unsealed: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done for one URI.

    ``placements`` are the rows to write; ``objects`` those of them whose bytes are to be stored first. ``changes`` are columns of a
    known document. ``fates`` and ``refused`` say what became of each row.
    """

    uri: DocumentURI
    document: CatalogueDocument | None
    intention: Intention
    first: Row | None
    placements: tuple[Placement, ...] = ()
    objects: tuple[tuple[Placement, Row], ...] = ()
    changes: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, str] | None = None
    holder: tuple[Holder, HolderColumns] | None = None
    fates: tuple[tuple[Row, str], ...] = ()
    refused: tuple[tuple[Row, str], ...] = ()

    @property
    def writes(self) -> bool:
        """Tell whether the catalogue changes."""
        return bool(self.placements or self.changes or self.parameters is not None or self.holder)


@dataclass(frozen=True, slots=True)
class PlanRules:
    """What holds for every group of a run. ``compares_settled`` is false in a dry run, where nothing was written before."""

    store: str
    hash_key: bytes
    replace: bool
    compares_settled: bool = True


def plan_group(uri: DocumentURI, rows: Sequence[Row], known: Known, rules: PlanRules) -> Plan:
    """Decide for all rows of a batch that have one URI.

    Rows of one URI are representations of one document, so what they say beside their bytes must not differ. A new version holds
    what these rows and earlier ones of the run name, and nothing that the run does not name.
    """
    accepted: list[tuple[Row, Intention]] = []
    refused: list[tuple[Row, str]] = []
    differing: tuple[str, ...] = ()
    for row in rows:
        try:
            intention = _intend(known, row, rules)
            differences = _differences(row, known, rules, accepted[0][0] if accepted else None)
        except _Refused as refusal:
            refused.append((row, str(refusal)))
            continue
        differing = differing or differences
        accepted.append((row, intention))
    if not accepted:
        return Plan(uri, known.document, Intention(Fate.UNCHANGED, 1), None, refused=tuple(refused))
    return _plan(uri, accepted, differing, known, rules, tuple(refused))


class _Refused(Exception):
    """A row is not taken; the text says why."""


def _intend(known: Known, row: Row, rules: PlanRules) -> Intention:
    document = known.document
    if document is not None and document.status == "revoked":
        # The same folder taken in again finds its revoked documents as they are.
        if any(row.content.same_form(it) and it.sha256 == row.content.sha256 for it in document.placements):
            return Intention(Fate.UNCHANGED, document.current_version)
        raise _Refused("the document is revoked")
    try:
        return intend(document, row.content, replace=rules.replace)
    except Conflict:
        raise _Refused(
            "other content is stored under this URI already; --replace makes this its next version"
        ) from None


def _differences(row: Row, known: Known, rules: PlanRules, first: Row | None) -> tuple[str, ...]:
    """Return the names of what the row says other than the catalogue; raises _Refused where it may not differ."""
    if first is not None:
        names = _differing(row.candidate, _said(first.candidate, rules.hash_key), rules.hash_key)
        if names:
            raise _Refused(f"{_listed(names)} not the same as on {first.candidate.place}, which has the same URI")
        return ()
    document = known.document
    if document is None or (known.settled and not rules.compares_settled):
        return ()
    names = _differing(row.candidate, _recorded(document, known.holder_hash), rules.hash_key)
    if names and document.status == "revoked":
        raise _Refused("the document is revoked")
    if names and known.settled:
        raise _Refused(f"{_listed(names)} not the same as in an earlier row with the same URI")
    if names and not rules.replace:
        raise _Refused(f"{_listed(names)} not the same as in the catalogue; --replace takes over what is said here")
    return names


def _plan(
    uri: DocumentURI, accepted: Sequence[tuple[Row, Intention]], differing: tuple[str, ...], known: Known,
    rules: PlanRules, refused: tuple[tuple[Row, str], ...],
) -> Plan:  # fmt: skip
    first = accepted[0][0]
    fates = {intention.fate for _, intention in accepted}
    intention = next((it for _, it in accepted if it.fate is Fate.REPLACED), None) or next(
        (it for _, it in accepted if it.fate is not Fate.UNCHANGED), accepted[0][1]
    )
    objects = tuple(
        (place(uri, intention, row.content, rules.store), row) for row, it in accepted if it.fate is not Fate.UNCHANGED
    )
    carried = _carried(accepted, known, intention) if Fate.REPLACED in fates else ()
    holder = first.candidate.holder
    document = known.document
    # A row that was compared with the catalogue brings the value again that a later locker was not told.
    told_again = bool(holder and known.unsealed and not known.settled and document and document.status != "revoked")
    return Plan(
        uri=document.uri if document else uri,
        document=document,
        intention=intention,
        first=first,
        placements=(*(placement for placement, _ in objects), *carried),
        objects=objects,
        changes=_columns(first, differing, rules.hash_key) if document else {},
        parameters=_parameters(first, document) if "search parameters" in differing else None,
        holder=(holder, HolderColumns.of(holder, rules.hash_key))
        if holder and (document is None or "the holder" in differing or told_again)
        else None,
        fates=_fates(accepted, bool(differing) or told_again),
        refused=refused,
    )


def _carried(accepted: Sequence[tuple[Row, Intention]], known: Known, intention: Intention) -> tuple[Placement, ...]:
    """Return the present representations that the new version keeps: those the run has named and found unchanged."""
    if known.document is None:
        return ()
    brought = {row.form for row, it in accepted if it.fate is not Fate.UNCHANGED}
    named = {row.form for row, _ in accepted} | set(known.settled)
    return tuple(
        replace(placement, version=intention.version)
        for placement in known.document.of_version(known.document.current_version)
        if (placement.media_type, placement.language) in named - brought
    )


def _fates(accepted: Sequence[tuple[Row, Intention]], changed: bool) -> tuple[tuple[Row, str], ...]:
    """Return each row's fate; of several that make one document the first one creates it."""
    fates: list[tuple[Row, str]] = []
    for number, (row, intention) in enumerate(accepted):
        fate: str = intention.fate
        if fate == Fate.CREATED and number > 0:
            fate = Fate.ADDED
        if fate == Fate.UNCHANGED and number == 0 and changed:
            fate = CHANGED
        fates.append((row, fate))
    return tuple(fates)


def _said(candidate: Candidate, key: bytes) -> dict[str, Any]:
    metadata = candidate.metadata
    return {
        "the title": metadata.title,
        "issued_on": metadata.issued_on,
        "expires_on": metadata.expires_on,
        "the office": metadata.office,
        "the holder": candidate.holder.keyed_hash(key) if candidate.holder else None,
        "search parameters": dict(metadata.parameters),
    }


def _recorded(document: CatalogueDocument, holder_hash: str | None) -> dict[str, Any]:
    return {
        "the title": document.title,
        "issued_on": document.issued_on,
        "expires_on": document.expires_on,
        "the office": document.office,
        "the holder": holder_hash,
        "search parameters": dict(document.parameters),
    }


def _differing(candidate: Candidate, other: Mapping[str, Any], key: bytes) -> tuple[str, ...]:
    """Return the names of what a candidate says and the other side says differently or not at all."""
    said = _said(candidate, key)
    parameters = said.pop("search parameters")
    names = [name for name, value in said.items() if value is not None and value != other[name]]
    if any(other["search parameters"].get(name) != value for name, value in parameters.items()):
        names.append("search parameters")
    return tuple(names)


def _columns(row: Row, differing: tuple[str, ...], key: bytes) -> dict[str, Any]:
    metadata, columns = row.candidate.metadata, {"the title": "title", "the office": "office"}
    changes = {}
    for name in differing:
        column = columns.get(name, name)
        if column in ("title", "office", "issued_on", "expires_on"):
            changes[column] = getattr(metadata, column)
    if "the holder" in differing and row.candidate.holder:
        changes.update(HolderColumns.of(row.candidate.holder, key).as_changes())
    return changes


def _parameters(row: Row, document: CatalogueDocument | None) -> dict[str, str]:
    return {**(document.parameters if document else {}), **row.candidate.metadata.parameters}


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names)} {'are' if len(names) > 1 or names[0] == 'search parameters' else 'is'}"
