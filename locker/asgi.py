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
from node.web.server import ServerSettings, run_asgi


def create_app(folder: Path) -> ASGIApp:
    """Build the application from a locker's folder."""
    return build_app(build_locker(load_settings(folder)))


def main() -> None:
    """Serve on the sockets that the supervisor bound."""
    end_with_parent()
    settings = load_settings(Path(sys.argv[1]))
    configure_logging(settings.log_level)
    locker = build_locker(settings)
    end_when_revoked(settings.keys_path, locker.keys)
    server = ServerSettings(
        certificate=settings.path(settings.tls_certificate) if settings.tls_certificate else None,
        private_key=settings.path(settings.tls_key) if settings.tls_key else None,
    )
    try:
        run_asgi(build_app(locker), child_sockets(), server)
    finally:
        locker.close()


if __name__ == "__main__":
    main()
