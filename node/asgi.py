"""The web process: both planes and the middleware around them, as one ASGI application."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from typing import Any

import structlog
from prometheus_client import CollectorRegistry
from sqlalchemy.exc import SQLAlchemyError
from starlette.types import ASGIApp, Receive, Scope, Send

from node.contract.problems import LogUnavailable, ProblemError
from node.contract.times import MINUTE
from node.db.processes import heartbeat, register_process
from node.delivery.admission import Admission, EventWork, Result, Work
from node.delivery.app import PREFIX, DeliveryApp, DeliverySettings, PutService
from node.delivery.small_reads import SmallReads
from node.http.app import create_control_app
from node.http.pages import CONTENT_POLICY
from node.http.pages import PATH as PAGES
from node.http.ports import ControlServices, NodeIdentity
from node.readiness import look
from node.services.floods import flood_event
from node.web.batches import BatchWorker
from node.web.floods import FloodGate
from node.web.metrics import render_metrics
from node.web.middleware import WebSettings, web_stack
from node.web.specification import Document, SpecificationError, load_specification, split_planes
from node.wiring import Node

RECORD_TIMEOUT_SECONDS = 30.0
HEARTBEAT_SECONDS = 10.0

log = structlog.get_logger()


class JoinedPlanes:
    """Delivery's paths go to delivery, all others to the control plane."""

    def __init__(self, delivery: ASGIApp, control: ASGIApp) -> None:
        self._delivery = delivery
        self._control = control

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Hand a request to the plane that owns its path."""
        if scope["type"] == "http" and DeliveryApp.owns(scope["raw_path"].partition(b"?")[0]):
            return self._delivery(scope, receive, send)
        return self._control(scope, receive, send)


class AdmissionRecorder:
    """Has the control plane's events written by the admission thread, which is the only writer of the log in a web process."""

    def __init__(self, worker: BatchWorker[Work, Result]) -> None:
        self._worker = worker

    def record(self, event: Mapping[str, Any]) -> None:
        """Write one event and return once it is durable; raises LogUnavailable."""
        try:
            self._worker.call(EventWork(event), RECORD_TIMEOUT_SECONDS)
        except LogUnavailable:
            raise
        except ProblemError as error:
            raise LogUnavailable(reason=error.reason) from error


class WebProcess:
    """What lives as long as one web process: its admission thread, its reading threads, the sources it counts."""

    def __init__(self, node: Node, process_id: str, run: str) -> None:
        self.process_id = process_id
        self.floods = FloodGate()
        self.pool = ThreadPoolExecutor(node.settings.reader_threads, thread_name_prefix="reader")
        self._keys = ThreadPoolExecutor(1, thread_name_prefix="locker-keys")
        self._keys_asked_us: dict[str, int] = {}
        self.admission = Admission(
            node.database, node.rules, node.limits, self.floods, node.clock, SmallReads(node.stores, self.pool).begin,
            self._fetch_keys, lambda connection: register_process(connection, process_id, run, os.getpid(), node.clock()),
        )  # fmt: skip
        self.worker: BatchWorker[Work, Result] = BatchWorker(
            "admission", self.admission.process, teardown=self.admission.close
        )
        self._node = node

    def start(self) -> None:
        """Start the admission thread, and have the process registered."""
        self.worker.start()
        self.worker.post(EventWork({}))

    def stop(self) -> None:
        """Write what is queued, then end the threads."""
        self._post_floods(self._node.clock() + MINUTE)
        self.worker.stop(RECORD_TIMEOUT_SECONDS)
        self.pool.shutdown(wait=False, cancel_futures=True)
        self._keys.shutdown(wait=False, cancel_futures=True)

    def _post_floods(self, now_us: int) -> None:
        for flood in self.floods.due(now_us):
            row = flood_event(flood.source, flood.minute_us, flood.count)
            self.worker.post(EventWork({**row, "process": self.process_id}))

    def _fetch_keys(self, iss: str) -> None:
        """Have a locker's keys fetched in the background, at most once a minute; the request that asked is refused all the same.

        A ticket under a key that was published a moment ago is good at the next try, and a flood of invented keys costs nothing.
        """
        now_us = self._node.clock()
        if now_us - self._keys_asked_us.get(iss, 0) < MINUTE:
            return
        self._keys_asked_us[iss] = now_us
        self._keys.submit(self._node.locker_lists.try_refresh_keys, iss)

    def beat(self) -> None:
        """Say that the process is alive and write the counts of floods; ends the process when it was declared dead.

        A process that others hold for dead has had its open reads closed as interrupted, and must not end them a second time.
        """
        now_us = self._node.clock()
        self.worker.post(EventWork({}))  # has written what was kept while the database was away
        self._post_floods(now_us)
        try:
            with self._node.database.writing() as connection:
                alive = heartbeat(connection, self.process_id, now_us)
        except SQLAlchemyError as error:
            log.error("heartbeat_failed", error=type(error).__name__)
            return
        if not alive:
            log.error("declared_dead")
            os.kill(os.getpid(), signal.SIGTERM)


class Lifespan:
    """Starts the process's threads before the first request and stops them after the last one (ASGI lifespan protocol)."""

    def __init__(self, app: ASGIApp, process: WebProcess) -> None:
        self._app = app
        self._process = process

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass requests on; run the lifespan."""
        if scope["type"] != "lifespan":
            return await self._app(scope, receive, send)
        await receive()
        self._process.start()
        beating = asyncio.create_task(self._beat())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        beating.cancel()
        await asyncio.to_thread(self._process.stop)
        await send({"type": "lifespan.shutdown.complete"})

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            await asyncio.to_thread(self._process.beat)


def build_web(node: Node, process_id: str, run: str) -> ASGIApp:
    """Build all that a web process serves, in the ``run`` of ``serve`` that it belongs to.

    Raises SpecificationError when specification and code differ.
    """
    process = WebProcess(node, process_id, run)
    registry = CollectorRegistry()
    specification = load_specification(resources.files("openapi"), "node.yaml")
    require_same_routes(specification)
    control = create_control_app(control_services(node, process, registry), specification=specification)
    settings = WebSettings(
        body_limits={PREFIX: node.settings.max_document_bytes},
        trusted_proxies=node.settings.trusted_proxies,
        content_policies={PAGES: CONTENT_POLICY},
    )
    joined = JoinedPlanes(build_delivery(node, process, node.administration), control)
    return Lifespan(web_stack(joined, settings, registry), process)


def build_delivery(node: Node, process: WebProcess, puts: PutService) -> DeliveryApp:
    """Make the data plane."""
    settings = node.settings
    bounds = DeliverySettings(
        process_id=process.process_id, spool_folder=node.spool_folder, max_document_bytes=settings.max_document_bytes,
        send_timeout=settings.send_timeout_seconds, receive_timeout=settings.receive_timeout_seconds,
    )  # fmt: skip
    return DeliveryApp(process.worker, node.stores, puts, process.pool, bounds)


def control_services(node: Node, process: WebProcess, registry: CollectorRegistry) -> ControlServices:
    """Gather what the control plane's handlers stand on."""
    settings = node.settings
    identity = NodeIdentity(
        settings.node_id, settings.name, settings.base_url, node.rules.gateway_only, node.keys.public.jwks(),
        [node.keys.waiting_holders.public.jwk()],
    )  # fmt: skip
    return ControlServices(
        process_id=process.process_id, identity=identity, rules=node.rules, limits=node.limits,
        credentials=node.records, catalogue=node.records, administration=node.administration, log=node.records,
        holders=node.holders, pulls=node.pulls, counts=node.records.counts,
        recorder=AdmissionRecorder(process.worker), floods=process.floods,
        refresh_keys=node.locker_lists.try_refresh_keys,
        readiness=lambda: look(node, lambda: process.admission.failing),
        metrics=lambda: render_metrics(registry), clock=node.clock,
    )  # fmt: skip


def require_same_routes(specification: Document) -> None:
    """Raise SpecificationError unless delivery's routes are those that the specification marks as its."""
    _, marked = split_planes(specification)
    if {(operation.method, operation.path) for operation in marked} != DeliveryApp.routes():
        raise SpecificationError("the specification marks other paths for delivery than delivery answers")
