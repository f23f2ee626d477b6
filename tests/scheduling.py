"""Which tests of a run in several processes stay together, and in which order the processes take them.

A file stays in one process, so that what its tests share is made once; so do the files that share the running federation. The longest
begin first: one that began last would go on alone while the other processors have nothing to do.
"""

import re
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).parents[1]
FEDERATION = "federation"
_SHARES = re.compile(r"^def \w+\((?:.*\b)?federation\b|\"federation\"", re.MULTILINE)
LONGEST = (
    FEDERATION,
    "tests/examples/test_demo.py",
    "tests/docs/test_readme.py",
    "tests/durability/test_killing.py",
    "tests/federation/test_push.py",
    "tests/test_serving.py",
    "tests/locker/gateway/test_gateway.py",
    "tests/locker/http/test_control_plane.py",
    "tests/field_cases/test_times_and_zones.py",
    "tests/web/test_stream.py",
)
"""Groups that take long, the longest first; the others follow as they are collected."""


def group_of(nodeid: str, sharing: frozenset[str]) -> str:
    """Return the group of a test: its file, or the federation that files share."""
    file = nodeid.partition("::")[0]
    return FEDERATION if file in sharing else file


def sharing_files(folder: Path = ROOT / "tests" / "federation") -> frozenset[str]:
    """Return the files whose tests ask for the running federation."""
    return frozenset(
        str(file.relative_to(ROOT)) for file in folder.glob("test_*.py") if _SHARES.search(file.read_text("utf-8"))
    )


def place_of(group: str) -> int:
    """Return where a group stands in the order in which groups begin."""
    return LONGEST.index(group) if group in LONGEST else len(LONGEST)


class GroupScheduling(LoadScopeScheduling):
    """Gives each process group after group.

    pytest-xdist's own ``loadgroup`` writes the group behind a test's name, which pytest from 9.2 on does not let it do: without a
    word, it deals the tests out one by one.
    """

    def __init__(self, config: pytest.Config, log: Producer) -> None:
        config.option.loadscopereorder = (
            False  # would begin with the groups of many tests, which need not be the long ones
        )
        super().__init__(config, log)
        self._sharing = sharing_files()

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid, self._sharing)
