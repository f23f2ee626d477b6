"""With several processes any of them gives the metrics of all."""

import os
import subprocess
import sys
import textwrap

COUNT = """
import asyncio, sys
from prometheus_client import CollectorRegistry
from node.web.metrics import Metrics, render_metrics
from tests.web.asgi import ask, scope_for

async def hello(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})

registry = CollectorRegistry()
layer = Metrics(hello, registry=registry)
for _ in range(int(sys.argv[1])):
    asyncio.run(ask(layer, scope_for()))
print(render_metrics(registry)[0].decode())
"""


def test_the_page_adds_up_what_all_processes_counted(tmp_path):
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "PYTHONPATH": os.getcwd()}
    pages = [
        subprocess.run(
            [sys.executable, "-c", textwrap.dedent(COUNT), str(times)],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for times in (2, 3)
    ]
    assert 'status="200"} 2.0' in pages[0]
    assert 'status="200"} 5.0' in pages[1]
