"""The web process: both planes and the middleware around them, as one ASGI application."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import resources
from typing import Any

from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp, Receive, Scope, Send

from node.contract.problems import LogUnavailable, ProblemError
from node.delivery.admission import Admission, EventWork, Result, Work
from node.delivery.app import PREFIX, DeliveryApp, DeliverySettings, PutService
from node.services.access import LockerScope, NodeRules
from node.services.floods import FloodGate
from node.web.batches import BatchWorker
from node.web.middleware import WebSettings, web_stack
from node.web.specification import Document, SpecificationError, load_specification, split_planes
from node.wiring import Node

RECORD_TIMEOUT_SECONDS = 30.0


class JoinedPlanes:
    """Delivery's paths go to delivery, all others to the control plane."""

    def __init__(self, delivery: ASGIApp, control: ASGIApp) -> None:
        self._delivery = delivery
        self._control = control

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request to the plane that owns its path."""
        if scope["type"] == "http" and DeliveryApp.owns(scope["raw_path"].partition(b"?")[0]):
            await self._delivery(scope, receive, send)
        else:
            await self._control(scope, receive, send)


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


@dataclass(frozen=True, slots=True)
class WebProcess:
    """What lives as long as one web process: its admission thread, its reading threads, the sources it counts."""

    process_id: str
    worker: BatchWorker[Work, Result]
    admission: Admission
    floods: FloodGate
    pool: ThreadPoolExecutor

    def start(self) -> None:
        """Start the admission thread."""
        self.worker.start()

    def stop(self) -> None:
        """Write what is queued, then end the threads."""
        self.worker.stop(RECORD_TIMEOUT_SECONDS)
        self.pool.shutdown(wait=False, cancel_futures=True)


def build_process(node: Node, process_id: str) -> WebProcess:
    """Make a web process's threads; nothing runs yet."""
    settings = node.settings
    limits = {
        limit.iss: LockerScope(limit.iss, "active", limit.issuers, limit.doc_types) for limit in settings.lockers
    }
    floods = FloodGate()
    rules = NodeRules(settings.node_id, settings.exposure == "gateway-only")
    admission = Admission(node.database, rules, limits, floods, node.clock)
    worker: BatchWorker[Work, Result] = BatchWorker("admission", admission.process)
    pool = ThreadPoolExecutor(settings.reader_threads, thread_name_prefix="reader")
    return WebProcess(process_id, worker, admission, floods, pool)


def build_delivery(node: Node, process: WebProcess, puts: PutService) -> DeliveryApp:
    """Make the data plane."""
    settings = node.settings
    bounds = DeliverySettings(
        process_id=process.process_id, spool_folder=node.spool_folder, max_document_bytes=settings.max_document_bytes,
        send_timeout=settings.send_timeout_seconds, receive_timeout=settings.receive_timeout_seconds,
    )  # fmt: skip
    return DeliveryApp(process.worker, node.stores, puts, process.pool, bounds)


def require_same_routes(specification: Document) -> Document:
    """Return the control plane's part of the specification; raises SpecificationError unless delivery's routes are the marked ones."""
    control, marked = split_planes(specification)
    declared = {(operation.method, operation.path) for operation in marked}
    if declared != DeliveryApp.routes():
        raise SpecificationError("the specification marks other paths for delivery than delivery answers")
    return control
