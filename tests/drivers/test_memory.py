"""The memory driver keeps the whole contract."""

from collections.abc import Iterator

import pytest

from drivers.memory import MemoryDriver
from node.storage.conformance import DriverConformance
from node.storage.interface import StorageDriver


class TestMemoryDriver(DriverConformance):
    @pytest.fixture
    def driver(self) -> Iterator[StorageDriver]:
        yield MemoryDriver.from_settings({})
