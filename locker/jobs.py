"""The job process, the only place of the scheduler: ``python -m locker.jobs FOLDER``. Each task is one call of a service."""

import sys
from collections.abc import Callable
from pathlib import Path

import structlog
from apscheduler.schedulers.background import BackgroundScheduler

from locker.config import load_settings
from locker.key_publication import end_when_revoked
from locker.logs import configure_logging
from locker.wiring import Locker, build_locker
from node.contract.problems import ProblemError
from node.web.processes import end_with_parent, stopped_by_signals

log = structlog.get_logger("locker.jobs")

PURGE_SECONDS = 60
PROBE_SECONDS = 30


def republish(locker: Locker) -> None:
    """Publish the next revocation page in good time."""
    if locker.services.revocations.keep_fresh(locker.clock()):
        log.debug("revocation page published")


def purge(locker: Locker) -> None:
    """Delete tokens, used assertions and push results whose time is over."""
    now_us = locker.clock()
    gone = locker.services.tokens.purge(now_us) + locker.services.links.purge(now_us)
    if gone:
        log.info("purged", rows=gone)


def probe(locker: Locker) -> None:
    """Note for each approved node whether it answers, for the directory."""
    for node_id, base_url in locker.services.directory.approved_nodes():
        try:
            alive = locker.nodes.ask(node_id, f"{base_url}/healthz", None, None).status == 200
        except ProblemError as error:
            log.info("node does not answer", node_id=node_id, reason=error.reason)
            alive = False
        locker.services.directory.note_health(node_id, alive, locker.clock())


def schedule(locker: Locker, scheduler: BackgroundScheduler) -> None:
    """Add every job; a run that is late is made once, never twice at a time."""
    freshness = locker.settings.revocation_freshness_seconds
    for task, seconds in ((republish, max(1, freshness // 10)), (purge, PURGE_SECONDS), (probe, PROBE_SECONDS)):
        _run(task, locker)
        scheduler.add_job(
            _run,
            "interval",
            args=(task, locker),
            seconds=seconds,
            coalesce=True,
            max_instances=1,
            misfire_grace_time=None,
        )


def _run(task: Callable[[Locker], None], locker: Locker) -> None:
    """Run a task; a fault is logged and the next run tries again."""
    try:
        task(locker)
    except Exception as error:
        log.error("job failed", job=task.__name__, error=type(error).__name__)


def main() -> None:
    """Run the jobs until SIGTERM or SIGINT."""
    end_with_parent()
    stop = stopped_by_signals()
    settings = load_settings(Path(sys.argv[1]))
    configure_logging(settings.log_level)
    locker = build_locker(settings)
    end_when_revoked(settings.keys_path, locker.keys)
    scheduler = BackgroundScheduler(timezone="UTC")
    try:
        schedule(locker, scheduler)
        scheduler.start()
        stop.wait()
        scheduler.shutdown()
        log.info("jobs stopped")
    finally:
        locker.close()


if __name__ == "__main__":
    main()
