"""The conformance suite is proven by drivers that are broken on purpose: each fails, on the test that is meant for it."""

import importlib.util
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

SUBJECTS = Path(__file__).with_name("broken_drivers.py")


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("broken_drivers", SUBJECTS)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BROKEN = list(_load().broken())


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, set[str]]]:
    """Run the suite over the good drivers, and each broken one's own test; return test names by driver and result."""
    folder = tmp_path_factory.mktemp("conformance")
    report = folder / "report.xml"
    chosen = ["TestBroken", "TestReadOnly", *(f"Test{subject.__name__}::{subject.meant}" for subject in BROKEN)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    arguments = [
        *(f"{SUBJECTS}::{name}" for name in chosen), "--noconftest", "-c", os.devnull, "--rootdir", str(folder),
        "-q", "-p", "no:cacheprovider", "--import-mode=importlib", "--tb=no", f"--junitxml={report}",
    ]  # fmt: skip
    command = [sys.executable, "-m", "pytest", *arguments]
    subprocess.run(command, env=environment, capture_output=True, timeout=120, check=False)
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for case in ElementTree.parse(report).iter("testcase"):
        subject = case.attrib["classname"].rpartition(".Test")[2]
        kinds = {child.tag for child in case} & {"failure", "error", "skipped"}
        found[subject][kinds.pop() if kinds else "passed"].add(case.attrib["name"].partition("[")[0])
    return found


def test_a_good_driver_passes_all(results: dict[str, dict[str, set[str]]]) -> None:
    good = results["Broken"]
    assert set(good) == {"passed"}
    assert len(good["passed"]) >= 40


def test_three_operations_are_enough(results: dict[str, dict[str, set[str]]]) -> None:
    read_only = results["ReadOnly"]
    assert set(read_only) == {"passed", "skipped"}
    assert {"test_reads_what_was_stored", "test_guarded_range_works_with_or_without_ranges"} <= read_only["passed"]
    assert "test_put_never_overwrites" in read_only["skipped"]


@pytest.mark.parametrize("subject", BROKEN, ids=lambda subject: subject.__name__)
def test_a_broken_driver_fails_where_it_is_broken(results: dict[str, dict[str, set[str]]], subject: type) -> None:
    assert subject.meant in results[subject.__name__]["failure"]
