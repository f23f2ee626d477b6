"""Node and locker as they are joined, for walks over all routes."""

from collections.abc import Iterator

import pytest

from tests.openapi.joined import JoinedLocker, JoinedNode, joined_locker, joined_node


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JoinedNode]:
    """Behind a proxy that is believed, so that callers come from addresses of their own."""
    folder = tmp_path_factory.mktemp("roles")
    url = f"sqlite:///{folder}/node.db"
    with joined_node(folder / "node", url, trusted_proxies=["127.0.0.1/32"]) as joined:
        yield joined


@pytest.fixture(scope="module")
def locker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JoinedLocker]:
    with joined_locker(tmp_path_factory.mktemp("roles")) as joined:
        yield joined
