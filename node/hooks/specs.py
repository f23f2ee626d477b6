"""Every hook there is. A hook hands over objects once, at start; the core calls them and owns order, time and failure."""

from collections.abc import Iterable, Mapping

import pluggy

from node.hooks.types import AuditSink

PROJECT = "federated_locker"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def audit_sinks(options: Mapping[str, object]) -> Iterable[AuditSink] | None:
    """Return sinks for access events.

    ``options`` is the plugin's own table of the settings, empty when there is none. Everybody's answers count, in no promised
    order; None and an empty answer both mean no sink. Raise ValueError with a sentence that names the option that is wrong.
    """
