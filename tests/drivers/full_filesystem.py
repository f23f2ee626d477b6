"""Tests on a tiny file system; collected only by ``test_full_filesystem``, in a mount namespace that ends with them."""

import subprocess
from io import BytesIO
from pathlib import Path

import pytest

from drivers.filesystem import FilesystemDriver
from node.storage.conformance import Pattern, read_all
from node.storage.errors import StoreFull

KEY = "in.gov.x/incom/3f/1001.v1-0123456789abcdef.pdf"


def put(driver: FilesystemDriver, key: str, content: bytes) -> None:
    driver.put(key, BytesIO(content), len(content))


def tree(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir()}


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A file system of 1 MB."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], check=True)
    return folder


def test_a_full_file_system(tiny: Path) -> None:
    driver = FilesystemDriver(tiny)
    put(driver, "a/first", b"x" * 1000)
    for size in (1_500_000, 1_047_000):
        with pytest.raises(StoreFull) as caught:
            driver.put(KEY, Pattern(size), size)
        assert caught.value.status == 507
        assert tree(tiny) == {"a/first"}
    assert read_all(driver.open("a/first")) == b"x" * 1000
    driver.put(KEY, Pattern(500_000), 500_000)
    driver.close()


def test_the_reserve_is_kept_free(tiny: Path) -> None:
    driver = FilesystemDriver(tiny, reserve_bytes=700_000)
    source = Pattern(400_000)
    with pytest.raises(StoreFull):
        driver.put(KEY, source, 400_000)
    assert source.read(1) == Pattern.part(0, 1), "nothing was taken from the source"
    driver.put(KEY, Pattern(200_000), 200_000)
    assert driver.health().space.ok is True
    (tiny / "filler").write_bytes(b"x" * 300_000)
    health = driver.health()
    assert (health.read.ok, health.write.ok, health.space.ok) == (True, True, False)
    assert health.free_bytes is not None
    assert health.free_bytes < 700_000
    driver.close()


def test_health_tells_a_full_store(tiny: Path) -> None:
    driver = FilesystemDriver(tiny)
    with pytest.raises(OSError):
        (tiny / "filler").write_bytes(b"x" * 2_000_000)
    health = driver.health()
    assert (health.read.ok, health.write.ok, health.space.ok, health.credential.ok) == (True, False, False, True)
    assert health.free_bytes == 0
    driver.close()
