"""The README's commands, run as written in an empty folder; only ports are moved and installing is left out."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx

README = Path(__file__).parents[2] / "README.md"
BLOCK = re.compile(r"(<!-- readme: background -->\n)?```sh\n(.*?)```", re.DOTALL)
INSTALLS = re.compile(r"^(make |python3 -m venv|\.venv/bin/pip|pip install|export PATH)")


def blocks(ports):
    """Return (runs in the background, script) of each block that is run here."""
    text = README.read_text(encoding="utf-8")
    for written, port in ports.items():
        text = text.replace(str(written), str(port))
    for background, script in BLOCK.findall(text):
        lines = [line for line in script.splitlines() if not INSTALLS.match(line)]
        if any(lines):
            yield bool(background), "\n".join(lines)


def test_every_command_runs_as_written(tmp_path, free_port):
    ports = {8080: free_port(), 8400: free_port()}
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "BASH_ENV": str(tmp_path / "exports"),
    }
    (tmp_path / "exports").touch()
    servers, ran = [], 0
    try:
        for background, script in blocks(ports):
            if background:
                server = subprocess.Popen(
                    ["bash", "-c", ending_as_itself(script)],
                    cwd=tmp_path,
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                )
                servers.append(server)
                wait_for(ports[8080] if len(servers) == 1 else ports[8400], server)
                continue
            # What a block exports or sets holds in the blocks after it, as it would in one terminal.
            kept = (
                script
                + '\ndeclare -p LOCKER_NODE_FOLDER LOCKER_FOLDER TOKEN RESIDENT CONSENT 2>/dev/null > "$BASH_ENV" || true'
            )
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", kept],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                timeout=120,
            )
            assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
            ran += script.count("\n") + 1
        assert ran > 40
        assert (tmp_path / "income.pdf").read_bytes().startswith(b"%PDF")
        assert (tmp_path / "pulled.pdf").read_bytes() == (tmp_path / "income.pdf").read_bytes()
        assert (tmp_path / "reads.csv").read_text(encoding="utf-8-sig").count("\n") > 2
    finally:
        for server in servers:
            server.send_signal(signal.SIGTERM)
        for server in servers:
            server.communicate(timeout=30)


def ending_as_itself(script):
    """Return a script whose last command takes the shell's place, so that a signal reaches the server."""
    before, newline, last = script.rpartition("\n")
    return f"{before}{newline}exec {last}"


def wait_for(port, server):
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline:
        assert server.poll() is None, server.stdout.read().decode()
        try:
            httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=1)
            return
        except httpx.HTTPError:
            time.sleep(0.1)
    raise AssertionError("the server did not start")
