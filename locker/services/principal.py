"""Who is calling, once their credential has been checked."""

from dataclasses import dataclass

NODE = "node"
REQUESTER = "requester"
RESIDENT = "resident"
AUDITOR = "auditor"
OPERATOR = "operator"

ROLES = (NODE, REQUESTER, RESIDENT, AUDITOR, OPERATOR)


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller: what they are and who they are among those."""

    role: str
    subject: str
