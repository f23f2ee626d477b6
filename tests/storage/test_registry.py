"""The registry: names are used once, modules load when asked for, a broken driver is named and the others stay."""

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from drivers.filesystem import FilesystemDriver
from drivers.memory import MemoryDriver
from node.storage.errors import SettingsError
from node.storage.registry import GROUP, DriverRegistry


def point(name: str, value: str) -> EntryPoint:
    return EntryPoint(name, value, GROUP)


def test_bundled_drivers() -> None:
    registry = DriverRegistry.with_installed()
    assert {"filesystem", "memory"} <= set(registry.names)
    assert registry.load("memory") is MemoryDriver
    assert registry.load("filesystem") is FilesystemDriver
    assert registry.broken() == {}


def test_a_name_used_twice_is_an_error() -> None:
    registry = DriverRegistry()
    registry.register("memory", lambda: MemoryDriver)
    with pytest.raises(SettingsError, match="memory: two drivers"):
        registry.register("memory", lambda: MemoryDriver)


def test_an_unknown_name_is_an_error_that_lists_the_known() -> None:
    with pytest.raises(SettingsError, match=r"s4: there is no such driver; there are: filesystem, memory"):
        DriverRegistry.with_installed([]).load("s4")


def test_a_module_loads_only_when_asked_for() -> None:
    script = (
        "import sys; from node.storage.registry import DriverRegistry; r = DriverRegistry.with_installed();"
        "assert 'drivers.filesystem' not in sys.modules; r.load('filesystem'); assert 'drivers.filesystem' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)


def test_broken_drivers_are_named_and_healthy_ones_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "faulty_sdk.py").write_text("raise RuntimeError('no libstore')")
    monkeypatch.syspath_prepend(str(tmp_path))
    offered = [
        point("gone", "no_such_module:Driver"),
        point("faulty", "faulty_sdk:Driver"),
        point("nameless", "drivers.memory:NoSuchDriver"),
        point("no-driver", "pathlib:Path"),
        point("memory", "elsewhere:MemoryDriver"),
        point("twice", "drivers.memory:MemoryDriver"),
        point("twice", "drivers.filesystem:FilesystemDriver"),
        point("healthy", "drivers.memory:MemoryDriver"),
    ]
    registry = DriverRegistry.with_installed(offered)
    assert registry.load("healthy") is MemoryDriver
    assert registry.load("memory") is MemoryDriver, "the bundled one keeps its name"
    broken = registry.broken()
    assert set(broken) == {"gone", "faulty", "nameless", "no-driver", "memory", "twice"}
    assert "no libstore" in broken["faulty"]
    assert "no_such_module" in broken["gone"]
    for name in ("gone", "faulty", "nameless", "no-driver", "twice"):
        with pytest.raises(SettingsError, match=f"^{name}: "):
            registry.load(name)


def test_relative_paths_are_taken_from_the_folder(tmp_path: Path) -> None:
    (tmp_path / "storage").mkdir()
    registry = DriverRegistry.with_installed([])
    driver = registry.create("filesystem", {"root": "storage"}, tmp_path)
    assert driver.health().ok
    driver.close()
    registry.create("filesystem", {"root": str(tmp_path / "storage")}, Path("/nowhere")).close()


@pytest.mark.parametrize(
    ("driver", "options", "named"),
    [
        ("filesystem", {}, "root"),
        ("filesystem", {"root": ""}, "root"),
        ("filesystem", {"root": 7}, "root"),
        ("filesystem", {"root": "missing"}, "root"),
        ("filesystem", {"root": "file"}, "root"),
        ("filesystem", {"root": "."}, None),
        ("filesystem", {"root": ".", "rot": "x"}, "rot"),
        ("filesystem", {"root": ".", "reserve_bytes": -1}, "reserve_bytes"),
        ("filesystem", {"root": ".", "reserve_bytes": "1"}, "reserve_bytes"),
        ("filesystem", {"root": ".", "reserve_bytes": True}, "reserve_bytes"),
        ("filesystem", {"root": ".", "sweep_age_seconds": 1.5}, "sweep_age_seconds"),
        ("memory", {"size": 1}, "size"),
    ],
)
def test_wrong_options_are_named(tmp_path: Path, driver: str, options: dict[str, object], named: str | None) -> None:
    (tmp_path / "file").write_text("x")
    registry = DriverRegistry.with_installed([])
    if named is None:
        registry.create(driver, options, tmp_path).close()
        return
    with pytest.raises(SettingsError, match=rf"^{named}: "):
        registry.create(driver, options, tmp_path)
