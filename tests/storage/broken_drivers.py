"""Drivers broken on purpose, each in one way; collected only by ``test_conformance``, which wants each to fail on the right test."""

import time
from collections.abc import Iterator, Mapping
from io import BytesIO
from typing import Any, ClassVar, Self

import pytest

from drivers.memory import MemoryDriver
from node.storage.conformance import DriverConformance
from node.storage.errors import ObjectExists, ObjectMissing, StoreUnreachable
from node.storage.interface import Capabilities, Finding, ObjectInfo, StorageDriver, StorageHealth


class SDKError(Exception):
    pass


class Broken(MemoryDriver):
    """A good driver; what it keeps can be reached by name."""

    meant: ClassVar[str] = ""

    def keep(self, key: str, content: bytes) -> ObjectInfo:
        info = ObjectInfo(key, len(content), time.time_ns() // 1000)
        self._objects[key] = info, content
        return info


class Overwrites(Broken):
    meant = "test_put_never_overwrites"

    def put(self, key, source, size):
        self._objects.pop(key, None)
        return super().put(key, source, size)


class Truncates(Broken):
    meant = "test_reads_what_was_stored"

    def open(self, key, offset=0, length=None):
        return super().open(key, offset, min(99, length or 99))


class IgnoresOffset(Broken):
    meant = "test_range_gives_exactly_its_bytes"

    def open(self, key, offset=0, length=None):
        return super().open(key, 0, length)


class IgnoresLength(Broken):
    meant = "test_range_gives_exactly_its_bytes"

    def open(self, key, offset=0, length=None):
        return super().open(key, offset)


class InclusiveRange(Broken):
    meant = "test_range_gives_exactly_its_bytes"

    def open(self, key, offset=0, length=None):
        return super().open(key, offset, None if length is None else length + 1)


class RefusesLateRange(Broken):
    meant = "test_range_that_begins_past_the_end_is_empty"

    def open(self, key, offset=0, length=None):
        if offset > self.stat(key).size:
            raise StoreUnreachable()
        return super().open(key, offset, length)


class OpensLazily(Broken):
    meant = "test_open_missing_raises_at_once"

    def open(self, key, offset=0, length=None):
        return super().open(key, offset, length) if key in self._objects else BytesIO()


class WrongMissingError(Broken):
    meant = "test_open_missing_raises_at_once"

    def open(self, key, offset=0, length=None):
        if key not in self._objects:
            raise StoreUnreachable()
        return super().open(key, offset, length)


class LeaksSDKError(Broken):
    meant = "test_stat_missing"

    def stat(self, key):
        if key not in self._objects:
            raise SDKError("404 at https://bucket.example")
        return super().stat(key)


class TellsThePlace(Broken):
    meant = "test_errors_are_ours_and_tell_no_place"

    def open(self, key, offset=0, length=None):
        if key not in self._objects:
            raise ObjectMissing(f"/srv/store/{key} is missing")
        return super().open(key, offset, length)


class RemembersMissing(Broken):
    meant = "test_missing_is_not_remembered"

    def __init__(self):
        super().__init__()
        self._missing = set()

    def open(self, key, offset=0, length=None):
        if key in self._missing:
            raise ObjectMissing()
        try:
            return super().open(key, offset, length)
        except ObjectMissing:
            self._missing.add(key)
            raise


class GivesMoreThanAsked(Broken):
    meant = "test_reads_in_pieces_no_larger_than_asked"

    def open(self, key, offset=0, length=None):
        class Greedy(BytesIO):
            def read(self, size=-1, /):
                return super().read(size * 2)

        return Greedy(super().open(key, offset, length).read())


class StartsAgainAtTheEnd(Broken):
    meant = "test_end_stays_the_end"

    def open(self, key, offset=0, length=None):
        class Loop(BytesIO):
            ended = False

            def read(self, size=-1, /):
                piece = super().read(size)
                if self.ended and not piece:
                    self.seek(0)
                self.ended = not piece
                return piece

        return Loop(super().open(key, offset, length).read())


class ReadsWhenClosed(Broken):
    meant = "test_closed_stream_refuses_to_read"

    def open(self, key, offset=0, length=None):
        class Undead(BytesIO):
            def close(self):
                pass

        return Undead(super().open(key, offset, length).read())


class SharesOneStream(Broken):
    meant = "test_opens_one_object_twice"

    def __init__(self):
        super().__init__()
        self._streams = {}

    def open(self, key, offset=0, length=None):
        place = key, offset, length
        if place not in self._streams or self._streams[place].closed:
            self._streams[place] = super().open(key, offset, length)
        return self._streams[place]


class SeesHalfAnObject(Broken):
    """Writes under the good name from the first byte; right once it is done."""

    meant = "test_nothing_is_seen_while_putting"

    def put(self, key, source, size):
        if key in self._objects:
            raise ObjectExists()
        self.keep(key, b"")
        try:
            content = b"".join(iter(lambda: source.read(1000), b""))
        finally:
            self.delete(key)
        return super().put(key, BytesIO(content), size)


class LeavesHalfAnObject(Broken):
    meant = "test_failing_source_leaves_nothing"

    def put(self, key, source, size):
        driver = self

        class Recorder:
            taken = b""

            def read(self, wanted, /):
                try:
                    piece = source.read(wanted)
                except Exception:
                    driver.keep(key, self.taken)
                    raise
                self.taken += piece
                return piece

        return super().put(key, Recorder(), size)


class WrapsTheSourceError(Broken):
    meant = "test_failing_source_leaves_nothing"

    def put(self, key, source, size):
        try:
            return super().put(key, source, size)
        except OSError as error:
            raise StoreUnreachable() from error


class TakesShortSource(Broken):
    meant = "test_short_source_leaves_nothing"

    def put(self, key, source, size):
        content = b"".join(iter(lambda: source.read(65536), b""))
        return super().put(key, BytesIO(content), min(size, len(content)))


class TakesLongSource(Broken):
    meant = "test_long_source_leaves_nothing"

    def put(self, key, source, size):
        content = b"".join(iter(lambda: source.read(65536), b""))
        return super().put(key, BytesIO(content), max(size, len(content)))


class CutsLongSource(Broken):
    meant = "test_long_source_leaves_nothing"

    def put(self, key, source, size):
        content = b""
        while len(content) < size and (piece := source.read(min(65536, size - len(content)))):
            content += piece
        return super().put(key, BytesIO(content), size)


class ReadsAllAtOnce(Broken):
    meant = "test_put_reads_its_source_piecewise"

    def put(self, key, source, size):
        content = source.read(10**9)
        while piece := source.read(10**9):
            content += piece
        return super().put(key, BytesIO(content), size)


class TakesOneReadForAll(Broken):
    meant = "test_put_takes_a_source_that_gives_little_at_a_time"

    def put(self, key, source, size):
        content = source.read(min(size, 262144)) if size else b""
        if len(content) == 262144:
            content += b"".join(iter(lambda: source.read(262144), b""))
        return self.keep(key, content) if key not in self._objects else super().put(key, source, size)


class ClosesTheSource(Broken):
    meant = "test_put_leaves_its_source_open"

    def put(self, key, source, size):
        info = super().put(key, source, size)
        getattr(source, "close", lambda: None)()
        return info


class LooksThenLeaps(Broken):
    """Looks whether the key is free, and writes without looking again."""

    meant = "test_concurrent_puts_have_one_winner"

    def put(self, key, source, size):
        if key in self._objects:
            raise ObjectExists()
        other = MemoryDriver()
        info = other.put(key, source, size)
        time.sleep(0.01)
        self._objects[key] = other._objects[key]
        return info


class FoldsCase(Broken):
    meant = "test_neighbouring_keys_never_meet"

    def _find(self, key):
        return super()._find(next((known for known in self._objects if known.lower() == key.lower()), key))


class DropsTrailingDots(Broken):
    meant = "test_neighbouring_keys_never_meet"

    def _find(self, key):
        return super()._find(next((known for known in self._objects if known.rstrip(".") == key.rstrip(".")), key))


class CutsLongKeys(Broken):
    meant = "test_longest_keys"

    def put(self, key, source, size):
        return super().put(key[:180], source, size)


class DeleteRaises(Broken):
    meant = "test_delete_is_idempotent"

    def delete(self, key):
        self.stat(key)
        super().delete(key)


class DeletesNothing(Broken):
    meant = "test_delete_removes_one_object"

    def delete(self, key):
        pass


class DeletesFolders(Broken):
    meant = "test_delete_of_a_folder_removes_nothing"

    def delete(self, key):
        for known in [known for known in self._objects if known == key or known.startswith(key + "/")]:
            super().delete(known)


class KeepsTombstones(Broken):
    meant = "test_a_deleted_key_can_be_put_again"

    def __init__(self):
        super().__init__()
        self._gone = set()

    def delete(self, key):
        self._gone.add(key)
        super().delete(key)

    def put(self, key, source, size):
        if key in self._gone:
            raise ObjectExists()
        return super().put(key, source, size)


class ListsTemporaries(Broken):
    meant = "test_list_shows_nothing_half_written"
    writing: ClassVar[list[str]] = []

    def put(self, key, source, size):
        self.writing.append(key + ".part")
        try:
            return super().put(key, source, size)
        finally:
            self.writing.remove(key + ".part")

    def list(self, prefix=""):
        yield from super().list(prefix)
        for key in self.writing:
            yield ObjectInfo(key, 0, 0)


class ListsTwice(Broken):
    meant = "test_list_gives_each_object_once"

    def list(self, prefix=""):
        yield from super().list(prefix)
        yield from super().list(prefix)


class ListsWholeFolders(Broken):
    meant = "test_list_under_a_prefix"

    def list(self, prefix=""):
        yield from super().list(prefix.rpartition("/")[0])


class RaisesForNothingToList(Broken):
    meant = "test_list_of_an_empty_store"

    def list(self, prefix=""):
        found = list(super().list(prefix))
        if not found:
            raise ObjectMissing()
        yield from found


class TellsSeconds(Broken):
    meant = "test_stat_tells_key_size_and_time"

    def stat(self, key):
        info = super().stat(key)
        return ObjectInfo(info.key, info.size, info.modified_us // 1_000_000)


class TakesUnknownOptions(Broken):
    meant = "test_unknown_option_is_named"

    @classmethod
    def from_settings(cls, options: Mapping[str, object]) -> Self:
        return cls()


class HealthLeavesAProbe(Broken):
    meant = "test_health_leaves_nothing"

    def health(self):
        self.keep("probe", b"x")
        return super().health()


class HealthSaysNothing(Broken):
    meant = "test_health_of_a_healthy_store"

    def health(self):
        nothing = Finding(None, "")
        return StorageHealth(nothing, nothing, nothing, nothing)


class SweepsObjects(Broken):
    meant = "test_sweep_removes_no_object"

    def sweep(self):
        count = len(self._objects)
        self._objects.clear()
        return count


class DeclaresTooLittle(Broken):
    """Says that it cannot delete, and deletes."""

    meant = "test_what_is_not_declared_is_refused"
    capabilities = Capabilities(ranges=True, list=True, put=True)


class ReadOnly(StorageDriver):
    """The three operations, and a good driver with them."""

    def __init__(self) -> None:
        self.inner = MemoryDriver()

    @classmethod
    def from_settings(cls, options: Mapping[str, object]) -> Self:
        MemoryDriver.from_settings(options)
        return cls()

    def open(self, key, offset=0, length=None):
        assert (offset, length) == (0, None), "only whole objects are asked for without ranges"
        return self.inner.open(key)

    def stat(self, key):
        return self.inner.stat(key)

    def health(self):
        fine, unknown = Finding(True, "It can be read"), Finding(None, "It is only read")
        return StorageHealth(fine, unknown, unknown, unknown)


def broken() -> Iterator[type[Broken]]:
    return iter(Broken.__subclasses__())


def conformance_of(kind: type[StorageDriver]) -> type[DriverConformance]:
    class Conformance(DriverConformance):
        large_size = 600_000

        @pytest.fixture
        def driver(self) -> Any:
            return kind.from_settings({})

        def fill(self, driver, key, content):
            super().fill(getattr(driver, "inner", driver), key, content)

    return Conformance


for subject in (Broken, ReadOnly, *broken()):
    globals()[f"Test{subject.__name__}"] = conformance_of(subject)
del subject
