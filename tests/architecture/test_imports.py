"""Who imports whom, what the core runs without, and that our top-level names are nobody else's."""

import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = ("node", "drivers", "plugins", "locker", "openapi", "migrations")

WITHOUT = """
import importlib, pkgutil, sys

REFUSED = {"flask", "connexion", "boto3", "botocore", "pysftp", "paramiko", "werkzeug", "a2wsgi"}

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in REFUSED:
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Refuse())

for name in sys.argv[1:]:
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, f"{name}."):
        importlib.import_module(module.name)
        print(module.name)
"""

LOADED = """
import importlib, pkgutil, sys
import locker
for module in pkgutil.walk_packages(locker.__path__, "locker."):
    importlib.import_module(module.name)
print(*sorted(name for name in sys.modules if name.partition(".")[0] in ("node", "drivers", "plugins")), sep="\\n")
"""


def run(script: str, *arguments: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", script, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_rooms_import_one_way():
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    assert " 0 broken" in done.stdout


def test_the_core_imports_without_web_frameworks_and_store_sdks():
    rooms = ("node.contract", "node.storage", "node.hooks", "node.services", "node.db", "node.delivery", "drivers")
    assert len(run(WITHOUT, *rooms)) > 50


def test_the_refusal_of_frameworks_bites():
    with pytest.raises(AssertionError, match="not installed here"):
        run(WITHOUT, "node.http")


def test_the_locker_loads_nothing_of_the_node_but_contract_and_web_plumbing():
    loaded = set(run(LOADED)) - {"node"}
    assert loaded
    assert {name for name in loaded if not name.startswith(("node.contract", "node.web"))} == set()


@pytest.mark.parametrize("name", OURS)
def test_no_other_distribution_has_our_top_level_names(name):
    assert set(packages_distributions().get(name, ())) == {"federated-locker"}
