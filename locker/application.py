"""The web application: both planes in one, inside the shared middleware.

Apart from ``wiring`` so that commands and jobs start without Flask and Connexion.
"""

import asyncio
from collections.abc import Awaitable, Callable
from importlib.resources import files

import structlog
from prometheus_client import CollectorRegistry
from sqlalchemy.exc import OperationalError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from locker.db.migration import require_current
from locker.gateway.app import GatewayApp
from locker.http.app import create_control_app
from locker.http.handlers.consents import ConsentHandlers
from locker.http.handlers.nodes import NodeHandlers
from locker.http.handlers.oauth import TokenHandlers
from locker.http.handlers.operation import OperationHandlers
from locker.http.handlers.records import RecordHandlers
from locker.http.handlers.residents import ResidentHandlers
from locker.key_publication import KeyPublication
from locker.nodes import outbound_limits, private_networks
from locker.services.tickets import Outcome, TicketRequest
from locker.wiring import Locker
from node.contract.problems import ServiceUnavailable
from node.contract.times import MINUTE
from node.web.batches import BatchWorker
from node.web.middleware import WebSettings, web_stack
from node.web.outbound import AsyncOutboundClient
from node.web.specification import SpecificationError, load_specification, split_planes

log = structlog.get_logger("locker")

BATCH = 64
STOP_SECONDS = 5.0
FLOOD_SECONDS = 5.0


def build_app(locker: Locker, *, validate_responses: bool = False) -> ASGIApp:
    """Build the web application, both planes inside the middleware; its lifespan starts and stops what it works with.

    Raises SpecificationError when the contract and the code do not name the same operations.
    """
    settings, services = locker.settings, locker.services
    specification = load_specification(files("openapi"), "locker.yaml")
    control_specification, marked = split_planes(specification)
    if {(operation.method, operation.path) for operation in marked} != GatewayApp.routes():
        raise SpecificationError("the paths marked x-plane: delivery are not those that the data plane answers")
    registry = CollectorRegistry()
    office = BatchWorker[TicketRequest, list[Outcome]]("tickets", services.tickets.issue, limit=BATCH)
    publication = KeyPublication(settings.keys_path, locker.keys, locker.clock)
    handlers = (
        NodeHandlers(services.directory, services.links, locker.clock),
        TokenHandlers(services.tokens, locker.clock),
        ResidentHandlers(services.links, services.pulls, services.records),
        ConsentHandlers(services.consents),
        RecordHandlers(services.revocations, services.records, services.grants, locker.clock),
        OperationHandlers(
            iss=settings.base_url, name=settings.name, keys=publication,
            specification=specification, registry=registry, checks=locker.readiness.checks,
        ),
    )  # fmt: skip
    control = create_control_app(
        control_specification, handlers, services.tokens, services.attempts, clock=locker.clock,
        max_body=settings.max_body_bytes, validate_responses=validate_responses,
    )  # fmt: skip
    planes = _Planes(locker, control, office)
    web = WebSettings(
        body_limit=settings.max_body_bytes, trusted_proxies=tuple(str(network) for network in settings.trusted_proxies)
    )
    return _Lifespan(web_stack(planes, web, registry), planes)


class _Planes:
    """Gives each plane its whole paths, and lives as long as the server does."""

    def __init__(self, locker: Locker, control: ASGIApp, office: BatchWorker[TicketRequest, list[Outcome]]) -> None:
        self._locker = locker
        self._control = control
        self._office = office
        self._gateway: GatewayApp | None = None
        self._client: AsyncOutboundClient | None = None
        self._counting: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw = scope.get("raw_path") or scope["path"].encode()
        if self._gateway is not None and GatewayApp.owns(raw.partition(b"?")[0]):
            await self._gateway(scope, receive, send)
        else:
            await self._control(scope, receive, send)

    async def start(self) -> None:
        """Look at the database, start the ticket thread, and have Connexion built now and not at the first request."""
        settings = self._locker.settings
        await asyncio.to_thread(self._look_at_database)
        self._client = AsyncOutboundClient(allow_private=private_networks(settings), limits=outbound_limits(settings))
        self._gateway = GatewayApp(self._office, self._client, send_timeout=settings.send_timeout_seconds)
        self._office.start()
        self._counting = asyncio.create_task(self._count_floods())
        await _require_answers(self)

    def _look_at_database(self) -> None:
        """Raise for a database that is not as it should be; one that is away for now is no reason to end."""
        try:
            require_current(self._locker.database)
            self._locker.database.require_durable()
        except OperationalError:
            log.warning("the database does not answer; requests are refused until it does")

    async def stop(self) -> None:
        """Answer what waits, write what was counted, then close."""
        if self._counting is not None:
            self._counting.cancel()
        await asyncio.to_thread(self._office.stop, STOP_SECONDS)
        await self._write_floods(self._locker.clock() + MINUTE)
        if self._client is not None:
            await self._client.close()

    async def _count_floods(self) -> None:
        while True:
            await asyncio.sleep(FLOOD_SECONDS)
            await self._write_floods(self._locker.clock())

    async def _write_floods(self, now_us: int) -> None:
        try:
            await asyncio.to_thread(self._locker.services.attempts.write_floods, now_us)
        except ServiceUnavailable as error:  # what was counted is kept for the next time
            log.warning("floods not written", reason=error.reason)


class _Lifespan:
    """Outermost: the server's start and stop; everything else goes to the application."""

    def __init__(self, app: ASGIApp, planes: _Planes) -> None:
        self._app = app
        self._planes = planes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            return await self._app(scope, receive, send)
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await _told(send, "startup", self._planes.start)
            else:
                return await _told(send, "shutdown", self._planes.stop)


async def _told(send: Send, step: str, run: Callable[[], Awaitable[None]]) -> None:
    try:
        await run()
    except Exception as error:
        await send({"type": f"lifespan.{step}.failed", "message": f"{type(error).__name__}: {error}"})
        raise
    await send({"type": f"lifespan.{step}.complete"})


async def _require_answers(app: ASGIApp) -> None:
    """Ask the application for its health once: Connexion is built at its first request, faults and all."""
    statuses: list[int] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    scope: Scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http",
        "path": "/healthz", "raw_path": b"/healthz", "query_string": b"", "root_path": "", "headers": [],
        "client": None, "server": None, "state": {},
    }  # fmt: skip
    await app(scope, receive, send)
    if statuses != [200]:
        raise RuntimeError("the control plane does not answer; its log says why")
