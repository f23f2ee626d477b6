"""One node and one locker for all contract tests: what they are asked leaves them as good as before."""

from collections.abc import Iterator

import pytest

from tests.openapi.joined import JoinedLocker, JoinedNode, joined_locker, joined_node


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JoinedNode]:
    folder = tmp_path_factory.mktemp("contract")
    with joined_node(folder / "node", f"sqlite:///{folder}/node.db") as joined:
        yield joined


@pytest.fixture(scope="module")
def locker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JoinedLocker]:
    with joined_locker(tmp_path_factory.mktemp("contract")) as joined:
        yield joined
