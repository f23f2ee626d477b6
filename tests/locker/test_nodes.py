import socket
import time

import pytest

from locker.config import Settings, load_settings
from locker.nodes import ANSWER_SECONDS, NodeRequests
from node.contract.problems import NodeUnavailable


@pytest.fixture
def settings(tmp_path) -> Settings:
    (tmp_path / "keys").mkdir()
    (tmp_path / "locker.toml").write_text('base_url = "http://locker.test"\nallow_private = ["127.0.0.0/8"]\n')
    return load_settings(tmp_path)


def test_a_node_that_takes_the_request_and_never_answers_is_given_up(settings) -> None:
    requests = NodeRequests(settings, total=0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        with pytest.raises(NodeUnavailable):
            requests.ask("node-ap", f"http://127.0.0.1:{silent.getsockname()[1]}/healthz", None, None)
    requests.close()
    assert time.monotonic() - started < 3 and ANSWER_SECONDS * 2 <= 8
