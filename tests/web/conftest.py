"""Coroutine tests in a fresh event loop each, and real servers on free ports."""

import asyncio
import contextlib
import inspect
import threading
import time

import pytest

from node.web.processes import bind
from node.web.server import ServerSettings, build_server


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    asyncio.run(pyfuncitem.obj(**arguments))
    return True


@pytest.fixture
def closing():
    """Close at the test's end what is handed over, and hand it back: a connection, an answer, a socket."""
    with contextlib.ExitStack() as stack:
        yield lambda thing: stack.enter_context(contextlib.closing(thing))


@pytest.fixture
def serve():
    """Serve ASGI applications as a web process does, in threads of this process; returns the port."""
    running = []

    def start(app, **settings):
        server = build_server(app, ServerSettings(**{"drain_seconds": 1.0, **settings}))
        bound = bind("127.0.0.1", 0)
        port = bound.getsockname()[1]
        thread = threading.Thread(target=server.run, args=([bound],), daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.005)
        running.append((server, thread))
        start.servers.append(server)
        return port

    start.servers = []
    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()
