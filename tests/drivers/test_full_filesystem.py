"""A full file system says 507 and keeps nothing of what did not fit."""

import os
import subprocess
import sys
from pathlib import Path


def test_on_a_tiny_file_system(tmp_path: Path) -> None:
    """A mount namespace of its own needs no clean-up, and with a user namespace no root."""
    namespace = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--user", "--map-root-user"]
    tests = Path(__file__).with_name("full_filesystem.py")
    arguments = ["-q", "-p", "no:cacheprovider", "--noconftest", "-c", os.devnull, "--import-mode=importlib"]
    command = [*namespace, sys.executable, "-m", "pytest", str(tests), *arguments, f"--basetemp={tmp_path}/base"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout
