"""Commands and servers of the demo, run as an operator would run them."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

BIN = Path(sys.executable).parent
START_SECONDS = 120


class DemoFailed(Exception):
    """A step did not go as it should; the text says which."""


def command(program: str, *arguments: str) -> Any:
    """Run ``locker`` or ``locker-node`` with ``--json`` and return what it printed."""
    ran = subprocess.run([str(BIN / program), *arguments, "--json"], capture_output=True, text=True, check=False)
    if ran.returncode != 0:
        raise DemoFailed(f"{program} {' '.join(arguments)}: {ran.stderr.strip() or ran.stdout.strip()}")
    return json.loads(ran.stdout.strip().splitlines()[-1]) if ran.stdout.strip() else None


def free_port() -> int:
    """Return a port of the loopback interface that is free at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Server:
    """A running ``serve``; its log is a file beside its folder. ``environment`` is added to what it inherits."""

    program: str
    folder: Path
    url: str
    process: subprocess.Popen[bytes] | None = None
    environment: dict[str, str] = field(default_factory=dict)

    def start(self) -> None:
        """Start and wait until it answers."""
        with (self.folder.parent / f"{self.folder.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(BIN / self.program), "serve", "--folder", str(self.folder)],
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment},
            )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                if httpx.get(f"{self.url}/healthz", timeout=1).status_code == 200:
                    return
            except httpx.HTTPError:
                time.sleep(0.1)
        raise DemoFailed(f"{self.program} serve did not start; see {self.folder}.log")

    def stop(self) -> None:
        """Stop in order, and end what does not."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.kill(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.process = None
