"""The filesystem driver keeps the whole contract."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from drivers.filesystem import FilesystemDriver
from node.storage.conformance import DriverConformance
from node.storage.interface import StorageDriver


class TestFilesystemDriver(DriverConformance):
    @pytest.fixture
    def driver(self, tmp_path: Path) -> Iterator[StorageDriver]:
        self.root = tmp_path
        driver = FilesystemDriver.from_settings({"root": str(tmp_path)})
        yield driver
        driver.close()

    def settings(self) -> dict[str, object]:
        return {"root": str(self.root)}
