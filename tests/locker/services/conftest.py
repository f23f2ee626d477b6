"""A locker's services with somebody to serve: a resident with two documents, and a requester's token."""

from typing import Any

import pytest


@pytest.fixture
def given(either_world: Any) -> Any:
    """On SQLite and on PostgreSQL."""
    either_world.fill().university = either_world.requester()
    return either_world


@pytest.fixture
def on_sqlite(world: Any) -> Any:
    world.fill().university = world.requester()
    return world
