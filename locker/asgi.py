"""A web process of the locker, as the supervisor starts it: ``python -m locker.asgi FOLDER``."""

import sys
from pathlib import Path

from starlette.types import ASGIApp

from locker.application import build_app
from locker.config import load_settings
from locker.key_publication import end_when_revoked
from locker.logs import configure_logging
from locker.wiring import build_locker
from node.web.processes import child_sockets, end_with_parent
from node.web.server import ServerSettings, build_server

REVOKED_DRAIN_SECONDS = 1.0
"""A stranger's request that never ends must not hold back the list of revoked keys, which the next process publishes."""


def create_app(folder: Path) -> ASGIApp:
    """Build the application from a locker's folder."""
    return build_app(build_locker(load_settings(folder)))


def main() -> None:
    """Serve on the sockets that the supervisor bound."""
    end_with_parent()
    settings = load_settings(Path(sys.argv[1]))
    configure_logging(settings.log_level)
    locker = build_locker(settings)
    server_settings = ServerSettings(
        certificate=settings.path(settings.tls_certificate) if settings.tls_certificate else None,
        private_key=settings.path(settings.tls_key) if settings.tls_key else None,
    )
    try:
        server = build_server(build_app(locker), server_settings)

        def hurry() -> None:
            server.drain_seconds = REVOKED_DRAIN_SECONDS

        end_when_revoked(settings.keys_path, locker.keys, before=hurry)
        server.run(sockets=child_sockets())
    finally:
        locker.close()


if __name__ == "__main__":
    main()
