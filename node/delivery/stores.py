"""The store that a document lies in."""

from collections.abc import Mapping

import structlog

from node.contract.problems import StoreFault
from node.storage.guard import GuardedDriver

log = structlog.get_logger()


def store_of(stores: Mapping[str, GuardedDriver], name: str) -> GuardedDriver:
    """Return a store by its name in the settings; raises StoreFault for one that they do not have any more."""
    store = stores.get(name)
    if store is None:
        log.error("store_not_configured", store=name)
        raise StoreFault(reason="store-not-configured")
    return store
