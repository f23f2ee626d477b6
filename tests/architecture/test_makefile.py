"""What the Makefile runs is understood by the programs that it runs."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NO_TESTS = 5  # pytest's exit status when none was chosen


@pytest.mark.parametrize("target", ["test", "soak"])
def test_pytest_takes_the_options_whatever_files_there_are(target: str) -> None:
    """A value that is a file's name by itself is taken for a place of tests, and their options are not known then."""
    printed = subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    (line,) = [line for line in printed.splitlines() if "-m pytest" in line]
    command = [sys.executable, *shlex.split(line)[1:]]
    none_of_them = ["--collect-only", "--quiet", "--numprocesses", "0", "-k", "nothing_is_called_so"]
    if "--soak" in command:
        assert (ROOT / "bench" / "soak.json").exists()
        none_of_them.append("--soak-report=/dev/null")
    ran = subprocess.run([*command, *none_of_them], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == NO_TESTS, ran.stdout + ran.stderr
