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
from node.delivery.app import PREFIX, DeliveryApp, DeliverySettings
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
