"""What can go wrong with a store: few errors, one meaning each, one sentence each.

Each has its row of the problem table by inheritance. Its sentence is for the caller and names no path, host or library; what the
system or SDK said stays in ``__cause__`` for the operator's log.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from node.contract.problems import (
    BadRequest,
    BodyTooLarge,
    Conflict,
    ProblemError,
    StorageFull,
    StoreFault,
    StoreUnavailable,
)

RETRY_AFTER_SECONDS = "30"


class SettingsError(Exception):
    """A store's settings cannot be used; the text names the option and says what it should be."""


class StorageError(ProblemError):
    """What every failure of a store is; only its subclasses are raised."""

    sentence: ClassVar[str] = "The store failed"
    word: ClassVar[str] = "store-failed"

    def __init__(
        self,
        detail: str | None = None,
        *,
        reason: str | None = None,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail or self.sentence, reason=reason or self.word, headers=headers, extra=extra)


class ObjectMissing(StorageError, StoreFault):
    """The store answered, and has no object under this key."""

    sentence, word = "The store has no such object", "object-missing"


class ObjectDamaged(StorageError, StoreFault):
    """The store gave bytes that are not the ones recorded: too few, too many, or with another SHA-256."""

    sentence, word = "The store's object is not what was recorded", "object-damaged"


class AccessRefused(StorageError, StoreFault):
    """The store refuses our credential, or our account may not do this there."""

    sentence, word = "The store refuses this node's access", "store-access-refused"


class UnexpectedStoreError(StorageError, StoreFault):
    """A driver let through an error that it should have put in our words."""

    sentence, word = "The store failed in an unexpected way", "store-unexpected"


class _TryLater(StorageError, StoreUnavailable):
    """A fault that tells nothing of the object, and may pass."""

    def __init__(
        self,
        detail: str | None = None,
        *,
        reason: str | None = None,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        headers = {"Retry-After": RETRY_AFTER_SECONDS, **(headers or {})}
        super().__init__(detail, reason=reason, headers=headers, extra=extra)


class StoreUnreachable(_TryLater):
    """No answer came, so nothing is known of the object."""

    sentence, word = "The store cannot be reached", "store-unreachable"


class StoreBusy(_TryLater):
    """The store, or this process, has no capacity left for the moment."""

    sentence, word = "The store is too busy", "store-busy"


class StoreFull(StorageError, StorageFull):
    """There is no room for the object, or only the reserve that is kept free."""

    sentence, word = "The store has no room left", "store-full"


class ObjectTooLarge(StorageError, BodyTooLarge):
    """The object is larger than this store takes."""

    sentence, word = "The object is larger than the store takes", "object-too-large"


class ObjectExists(StorageError, Conflict):
    """There is an object under this key already, and it stays as it is."""

    sentence, word = "The store has an object under this key", "object-exists"


class InvalidKey(StorageError, BadRequest):
    """The text is no key that every store can hold."""

    sentence, word = "This is not a key of the store", "invalid-key"


class SizeMismatch(StorageError, BadRequest):
    """The content ended before, or went on after, the size that was declared for it."""

    sentence, word = "The content does not have the declared size", "size-mismatch"


class OperationNotSupported(StorageError, Conflict):
    """This kind of store does not do that; its capabilities say so beforehand."""

    sentence, word = "This store does not offer that operation", "operation-not-supported"
