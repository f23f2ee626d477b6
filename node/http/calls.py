"""One call of the control plane on its way through: who asks, for which document, and what its log row will say."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from node.contract.identifiers import uuid7
from node.contract.problems import ProblemError
from node.contract.uri import DocumentURI
from node.http.principals import ControlPrincipal
from node.services.audit import Action, Outcome
from node.services.events import Caller, attempt, refusal
from node.services.ports import CatalogueDocument
from node.web.specification import Operation

NOT_AUDITED = "none"


@dataclass(slots=True)
class Call:
    """A call of an operation; handlers get it as ``call`` and put into ``fields`` what the row shall say beside who and what.

    ``recorded`` is set by a handler whose service has written the row in its own transaction; ``error`` is what a handler raised.
    """

    operation: Operation
    caller: Caller
    uri_text: str = ""
    accept: str | None = None
    principal: ControlPrincipal = field(default_factory=ControlPrincipal)
    uri: DocumentURI | None = None
    found: CatalogueDocument | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    recorded: bool = False
    error: ProblemError | None = None
    call_id: str = field(default_factory=uuid7)

    @property
    def document(self) -> CatalogueDocument:
        """The document in the operation's path, which the caller may see."""
        if self.found is None:
            raise TypeError("this operation has no document in its path")
        return self.found

    @property
    def is_audited(self) -> bool:
        """Tell whether the specification wants a row for this operation."""
        return self.operation.audit != NOT_AUDITED

    def attempt(self) -> dict[str, Any]:
        """Return the row's fields as far as they are known, without how it went."""
        fields = attempt(
            Action(self.operation.audit), self.caller, read_id=self.call_id, uri_text=self.uri_text, uri=self.uri,
            principal=self.principal.document_reader, document=self.found,
        )  # fmt: skip
        for known in (self.principal.fields(), self.fields):
            fields.update({name: value for name, value in known.items() if value is not None})
        return {name: value for name, value in fields.items() if value not in (None, "")}

    def refused(self, error: ProblemError) -> dict[str, Any]:
        """Return the row of a call that ended with a known error."""
        return {**self.attempt(), **refusal(error)}

    def answered(self, status: int) -> Mapping[str, Any]:
        """Return the row of a call that was answered."""
        return {**self.attempt(), "outcome": Outcome.COMPLETE, "status": status}
