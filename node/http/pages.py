"""The contract as a page for people: Swagger UI from its own package, nothing from other hosts."""

from importlib import resources

from starlette.types import Receive, Scope, Send
from swagger_ui_bundle import swagger_ui_path  # type: ignore[import-untyped]  # the package has no annotations

from node.contract.problems import MethodNotAllowed, NotFound
from node.web.problems import send_problem_for

PATH = "/v1/ui"
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
"""Swagger UI writes styles into its elements, so only styles may be inline."""

_OWN = {"": ("ui.html", "text/html"), "start.js": ("ui.js", "text/javascript")}
_BUNDLED = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
}


class SpecificationPages:
    """ASGI application for everything below ``/v1/ui``: a page, its script, and Swagger UI's files, all held in memory."""

    def __init__(self) -> None:
        static = resources.files("node.http") / "static"
        own = {name: (kind, (static / file).read_bytes()) for name, (file, kind) in _OWN.items()}
        bundled = {name: (kind, (swagger_ui_path / name).read_bytes()) for name, kind in _BUNDLED.items()}
        self._files = {f"{PATH}/{name}": file for name, file in {**own, **bundled}.items()}

    @staticmethod
    def owns(path: str) -> bool:
        """Tell whether a path is one of these pages'."""
        return path == PATH or path.startswith(f"{PATH}/")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        scope.setdefault("state", {})["route"] = PATH
        if scope["method"] not in ("GET", "HEAD"):
            return await send_problem_for(scope, send, MethodNotAllowed(headers={"Allow": "GET, HEAD"}))
        if scope["path"] == PATH:
            return await _send(send, 308, {"location": f"{PATH}/"}, b"")
        file = self._files.get(scope["path"])
        if file is None:
            return await send_problem_for(scope, send, NotFound())
        kind, content = file
        headers = {
            "content-type": f"{kind}; charset=utf-8" if kind.startswith("text/") else kind,
            "content-security-policy": CONTENT_POLICY,
            "cache-control": "public, max-age=3600",
        }
        return await _send(send, 200, headers, b"" if scope["method"] == "HEAD" else content, len(content))


async def _send(send: Send, status: int, headers: dict[str, str], body: bytes, length: int = 0) -> None:
    raw = [(name.encode(), value.encode()) for name, value in {**headers, "content-length": str(length)}.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
