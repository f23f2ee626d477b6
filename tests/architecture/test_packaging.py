"""The wheel, built offline from a copy of the tree, holds all that runs need beside the code."""

import configparser
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ("node", "drivers", "plugins", "locker", "openapi", "migrations")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A copy, because building leaves folders behind in the tree that it builds."""
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tree)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", out, tree]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = out.glob("federated_locker-*.whl")
    with zipfile.ZipFile(built) as archive:
        yield archive


def test_every_file_of_the_sources_is_in_it(wheel):
    there = {
        str(path.relative_to(ROOT))
        for name in SOURCES
        for path in (ROOT / name).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in there if not name.endswith(".pyc")} - set(wheel.namelist()) == set()


def test_what_is_no_code_is_in_it(wheel):
    names = wheel.namelist()
    for pattern in (
        "openapi/node.yaml",
        "openapi/locker.yaml",
        "openapi/paths/node/document.yaml",
        "openapi/components/problem.yaml",
        "openapi/examples/node/get_health.json",
    ):
        assert pattern in names
    for history in ("node", "locker"):
        assert any(name.startswith(f"migrations/{history}/versions/") and name.endswith(".py") for name in names)


def test_nothing_else_is_in_it(wheel):
    tops = {name.partition("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(SOURCES)


def test_it_brings_both_commands_and_the_plugin(wheel):
    (file,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    points = configparser.ConfigParser()
    points.read_string(wheel.read(file).decode("utf-8"))
    assert dict(points["console_scripts"]) == {"locker-node": "node.cli:main", "locker": "locker.cli:main"}
    assert "jsonlines" in points["federated_locker.plugins"]
