"""A web process of the locker, by itself."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx

from locker.keys import load_keys
from locker.roots import create_root, open_root, revoke
from node.contract.signing import TICKET
from node.contract.times import now_us
from node.web.processes import SOCKETS_VARIABLE, bind, url_of
from tests.locker.conftest import ISS


def test_a_request_that_never_ends_does_not_hold_up_a_process_whose_key_was_revoked(
    folder: Path, tmp_path: Path
) -> None:
    """The list of revoked keys waits for the next process."""
    create_root(folder / "keys", tmp_path / "root.pem", None, iss=ISS, now_us=now_us())
    bound = bind("127.0.0.1", 0)
    environment = {**os.environ, SOCKETS_VARIABLE: str(bound.fileno())}
    command = [sys.executable, "-m", "locker.asgi", str(folder)]
    with bound, subprocess.Popen(command, pass_fds=[bound.fileno()], env=environment) as process:
        try:
            assert httpx.get(f"{url_of(bound)}/healthz", timeout=30).status_code == 200
            with socket.create_connection(bound.getsockname()) as stranger:
                stranger.sendall(
                    b"POST /v1/registrations HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
                    b"content-length: 9\r\n\r\n{"
                )
                time.sleep(0.3)
                stolen = load_keys(folder / "keys").signing[TICKET].kid
                root = open_root(tmp_path / "root.pem", None)
                revoke(folder / "keys", root, [stolen], "compromised", iss=ISS, now_us=now_us())
                assert process.wait(15) == 0
        finally:
            process.kill()
