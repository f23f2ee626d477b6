"""Tests that share something stay in one process, and what takes long begins first."""

import re
import subprocess
from pathlib import Path

from tests.scheduling import FEDERATION, LONGEST, ROOT, group_of, place_of, sharing_files


def test_files_that_ask_for_the_federation_are_one_group():
    sharing = sharing_files()
    assert "tests/federation/test_gateway.py" in sharing
    assert "tests/federation/test_withdrawn_consent.py" in sharing
    assert "tests/federation/test_push.py" not in sharing
    assert group_of("tests/federation/test_gateway.py::test_x[a@b]", sharing) == FEDERATION
    assert group_of("tests/federation/test_push.py::test_x", sharing) == "tests/federation/test_push.py"


def test_what_is_said_to_take_long_is_there_and_begins_first():
    for group in LONGEST[1:]:
        assert (ROOT / group).is_file()
    assert place_of(LONGEST[0]) < place_of(LONGEST[1]) < place_of("tests/contract/test_uri.py")


def test_each_file_is_run_by_one_process_alone(python):
    files = ("tests/contract/test_uri.py", "tests/contract/test_holders.py", "tests/contract/test_identifiers.py")
    done = subprocess.run(
        [python, "-m", "pytest", "--numprocesses", "2", "--dist", "loadgroup", "--verbose", *files],
        cwd=Path(ROOT), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    ran = set(re.findall(r"^\[(gw\d)\].* PASSED (tests/contract/\w+\.py)::", done.stdout, re.MULTILINE))
    assert sorted(file for _, file in ran) == sorted(files)
    assert {process for process, _ in ran} == {"gw0", "gw1"}
