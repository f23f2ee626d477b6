"""The demo ends well, says how many checks passed, and leaves nothing running."""

import os
import re
import subprocess
import sys
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]


def test_the_demo_passes_and_leaves_nothing(tmp_path):
    environment = {**os.environ, "DEMO_ONCE": "1", "TMPDIR": str(tmp_path)}
    ran = subprocess.run(
        [sys.executable, "-m", "examples.demo"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    last = ran.stdout.strip().splitlines()[-1]
    passed = re.fullmatch(r"demo: (\d+) checks passed", last)
    assert passed and int(passed[1]) >= 30
    assert list(tmp_path.glob("federated-locker-demo-*")) == []
    left = [
        process.info["cmdline"]
        for process in psutil.process_iter(["cmdline"])
        if str(tmp_path) in " ".join(process.info["cmdline"] or [])
    ]
    assert left == []
