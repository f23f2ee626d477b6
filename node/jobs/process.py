"""The job process of a node: the one place where scheduled work is done."""

import threading
from collections.abc import Callable
from typing import Protocol

import structlog

from node.config import Settings
from node.contract.identifiers import uuid7
from node.db.session import Database
from node.hooks.manager import Plugins
from node.hooks.sinks import AuditSinks
from node.jobs.scheduler import JobScheduler
from node.jobs.tasks import JobContext, tasks
from node.keys import NodeKeys
from node.services.locker_client import LockerClient
from node.web.circuits import Circuits
from node.web.outbound import OutboundClient, OutboundLimits
from node.web.processes import stopped_by_signals

LIST_LIMITS = OutboundLimits(connect=5, first_byte=5, idle=5, total=20)
"""For revocations: a locker that takes connections and answers nothing keeps others' lists waiting no longer than this."""

log = structlog.get_logger()


class JobNode(Protocol):
    """What the job process needs of a node."""

    @property
    def settings(self) -> Settings:
        """The settings."""

    @property
    def keys(self) -> NodeKeys:
        """The keys."""

    @property
    def database(self) -> Database:
        """The database."""

    @property
    def clock(self) -> Callable[[], int]:
        """The clock, microseconds UTC."""


def run_jobs(
    node: JobNode,
    stop: threading.Event | None = None,
    sweep: Callable[[], object] = lambda: None,
    owner: str | None = None,
) -> None:
    """Do the node's scheduled work until ``stop`` is set, or SIGTERM or SIGINT comes when there is no such event.

    ``sweep`` removes what failed puts have left in the stores. ``owner`` is the name under which leases are held: one that no
    other running process has, a new one by default.
    """
    stop = stop or stopped_by_signals()
    http = OutboundClient(allow_private=node.settings.allow_private)
    # A circuit that stays open after an outage would keep revocations away. Each locker is asked by one request at a time and at
    # an interval, so nothing is spared by waiting longer.
    asking = OutboundClient(
        allow_private=node.settings.allow_private, limits=LIST_LIMITS, circuits=Circuits(pause_us=0)
    )
    client, lists = (
        LockerClient(via, node_id=node.settings.node_id, key=node.keys.client, clock=node.clock)
        for via in (http, asking)
    )
    plugins = Plugins(node.settings.plugins)
    for report in plugins.reports:
        if report.trouble:
            log.error("a plugin cannot be used", plugin=report.name, trouble=report.trouble)
    sinks = AuditSinks(plugins.audit_sinks) if plugins.audit_sinks else None
    context = JobContext(node.settings, node.keys, client, lists, node.clock, sweep, sinks.emit if sinks else None)
    scheduler = JobScheduler(context, node.database, owner or uuid7(), tasks(node.settings))
    scheduler.start()
    stop.wait()
    scheduler.stop()
    http.close()
    asking.close()
    if sinks:
        sinks.close()
