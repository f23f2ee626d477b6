"""Drive an ASGI application by hand, message by message."""

import asyncio


def scope_for(method="GET", path="/", headers=(), *, scheme="http", client=("203.0.113.9", 5000)):
    raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    return {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": raw,
        "scheme": scheme,
        "client": client,
        "server": ("127.0.0.1", 80),
        "root_path": "",
        "http_version": "1.1",
        "asgi": {"version": "3.0"},
    }


class Answer:
    """What an application sent."""

    def __init__(self):
        self.status = None
        self.raw_headers = []
        self.body = b""
        self.complete = False

    async def send(self, message):
        if message["type"] == "http.response.start":
            self.status, self.raw_headers = message["status"], list(message["headers"])
        else:
            self.body += message.get("body", b"")
            self.complete = not message.get("more_body", False)

    @property
    def headers(self):
        return {name.decode().lower(): value.decode("latin-1") for name, value in self.raw_headers}

    def all(self, name):
        return [value.decode() for key, value in self.raw_headers if key.lower() == name.encode()]


def body_of(*chunks):
    """A receive that gives chunks and then waits for ever, as a server's does; `read` tells how many were taken."""
    waiting = list(chunks)

    async def receive():
        if waiting:
            receive.read += 1
            chunk = waiting.pop(0)
            return {"type": "http.request", "body": chunk, "more_body": bool(waiting)}
        await asyncio.Event().wait()

    receive.read = 0
    return receive


async def ask(app, scope, receive=None):
    answer = Answer()
    await app(scope, receive or body_of(b""), answer.send)
    return answer
