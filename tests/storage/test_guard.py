"""The guard: what a driver gets wrong is found before its bytes, or its words, reach a caller."""

import hashlib
import time
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any, Self

import pytest
import structlog

from drivers.memory import MemoryDriver
from node.contract.problems import BodyTooLarge, RangeNotSatisfiable
from node.storage.errors import (
    InvalidKey,
    ObjectDamaged,
    ObjectExists,
    ObjectMissing,
    ObjectTooLarge,
    OperationNotSupported,
    SizeMismatch,
    StoreUnreachable,
    UnexpectedStoreError,
)
from node.storage.guard import HASHED_AT_ONCE, GuardedDriver
from node.storage.interface import CHUNK, LARGEST_READ, Capabilities, ObjectInfo

KEY = "in.gov.x/incom/3f/1001.v1-0123456789abcdef.pdf"
CONTENT = bytes(range(256)) * 5000  # five chunks less a bit, more than the largest read
SIZE = len(CONTENT)
SHA = hashlib.sha256(CONTENT).hexdigest()


class Bent(MemoryDriver):
    """A memory driver whose reading and writing can be bent by a test."""

    def __init__(self, bend: Callable[[bytes], bytes] = bytes, *, step: int = CHUNK, **overrides: Any) -> None:
        super().__init__()
        self._bend = bend
        self._step = step
        self.opened: list[Any] = []
        for name, value in overrides.items():
            setattr(self, name, value)

    @classmethod
    def from_settings(cls, options: Mapping[str, object]) -> Self:
        return cls()

    def open(self, key: str, offset: int = 0, length: int | None = None) -> Any:
        content = self._bend(super().open(key, offset, length).read())
        stream = Watched(content, self._step)
        self.opened.append(stream)
        return stream


class Watched(BytesIO):
    def __init__(self, content: bytes, step: int) -> None:
        super().__init__(content)
        self.step = step
        self.largest = 0

    def read(self, size: int | None = -1, /) -> bytes:
        assert size
        assert size > 0
        self.largest = max(self.largest, size)
        return super().read(min(size, self.step))


def filled(driver: MemoryDriver, content: bytes = CONTENT) -> GuardedDriver:
    MemoryDriver.put(driver, KEY, BytesIO(content), len(content))
    return GuardedDriver(driver)


def read_all(stream: Any, size: int = CHUNK) -> bytes:
    with stream:
        return b"".join(iter(lambda: stream.read(size), b""))


@pytest.mark.parametrize("size", [1000, 65536, CHUNK, CHUNK * 10])
@pytest.mark.parametrize("step", [999, 65536, CHUNK])
def test_a_good_object_comes_whole(size: int, step: int) -> None:
    driver = Bent(step=step)
    guarded = filled(driver)
    with guarded.open_verified(KEY, SIZE, SHA) as stream:
        chunks = list(iter(lambda: stream.read(size), b""))
        assert stream.read(size) == b""
    assert b"".join(chunks) == CONTENT
    assert max(map(len, chunks)) <= LARGEST_READ
    assert driver.opened[0].largest <= LARGEST_READ
    assert driver.opened[0].closed


def flipped(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def flipped_first(content: bytes) -> bytes:
    return bytes([content[0] ^ 1]) + content[1:]


@pytest.mark.parametrize(
    "bend",
    [
        flipped,
        flipped_first,
        lambda content: content[:-1],
        lambda content: content[: len(content) * 2 // 5],
        lambda content: b"",
        lambda content: content + b"x",
    ],
    ids=["last byte", "first byte", "one short", "two fifths", "nothing", "one more"],
)
@pytest.mark.parametrize("size", [1000, CHUNK])
def test_the_last_chunk_of_a_damaged_object_never_goes_out(bend: Callable[[bytes], bytes], size: int) -> None:
    guarded = filled(Bent(bend))
    received = 0
    with guarded.open_verified(KEY, SIZE, SHA) as stream:
        with pytest.raises(ObjectDamaged):
            while chunk := stream.read(size):
                received += len(chunk)
        assert received < SIZE
        with pytest.raises(ObjectDamaged):
            stream.read(size)
    with pytest.raises(ObjectDamaged):
        guarded.verify(KEY, SIZE, SHA)


def test_a_stream_that_stops_early_does_not_look_complete() -> None:
    """A store declares 1,000,000 bytes and closes after 400,000."""
    content = b"x" * 1_000_000
    guarded = filled(Bent(lambda content: content[:400_000]), content)
    stream = guarded.open_verified(KEY, len(content), hashlib.sha256(content).hexdigest())
    assert len(stream.read(CHUNK)) == CHUNK
    with pytest.raises(ObjectDamaged) as caught:
        stream.read(CHUNK)
    assert caught.value.status == 502
    stream.close()


@pytest.mark.parametrize(("offset", "length"), [(0, 1), (1, SIZE - 1), (CHUNK, CHUNK), (SIZE - 1, 1), (7, CHUNK + 1)])
@pytest.mark.parametrize("ranges", [True, False])
def test_a_range_has_exactly_its_length(offset: int, length: int, ranges: bool) -> None:
    driver = Bent(capabilities=Capabilities(ranges=ranges))
    assert read_all(filled(driver).open_verified(KEY, SIZE, SHA, offset, length)) == CONTENT[offset : offset + length]
    short = Bent(lambda content: content[: -(SIZE - offset - length) - 1], capabilities=Capabilities(ranges=False))
    with pytest.raises(ObjectDamaged):
        read_all(filled(short).open_verified(KEY, SIZE, SHA, offset, length))


def test_a_range_of_the_whole_object_is_checked_like_one() -> None:
    guarded = filled(Bent(flipped))
    with pytest.raises(ObjectDamaged):
        read_all(guarded.open_verified(KEY, SIZE, SHA, 0, SIZE))


@pytest.mark.parametrize(
    ("offset", "length"), [(-1, 1), (0, SIZE + 1), (SIZE, 1), (1, SIZE), (0, -1), (SIZE + 1, None)]
)
def test_a_range_outside_the_object_is_refused(offset: int, length: int | None) -> None:
    with pytest.raises(RangeNotSatisfiable):
        filled(Bent()).open_verified(KEY, SIZE, SHA, offset, length)


@pytest.mark.parametrize("length", [0, None])
def test_nothing_at_the_end_is_a_range(length: int | None) -> None:
    assert read_all(filled(Bent()).open_verified(KEY, SIZE, SHA, SIZE, length)) == b""


def test_an_empty_object_is_checked_too() -> None:
    empty = hashlib.sha256(b"").hexdigest()
    assert read_all(filled(Bent(), b"").open_verified(KEY, 0, empty)) == b""
    assert filled(Bent(), b"").read_whole(KEY, 0, empty) == b""
    with pytest.raises(ObjectDamaged):
        read_all(filled(Bent(lambda content: b"x"), b"").open_verified(KEY, 0, empty))


def test_a_closed_stream_is_closed() -> None:
    driver = Bent()
    stream = filled(driver).open_verified(KEY, SIZE, SHA)
    stream.read(10)
    stream.close()
    stream.close()
    assert driver.opened[0].closed
    with pytest.raises(ValueError):
        stream.read(10)


def test_read_whole_checks_and_closes() -> None:
    small = CONTENT[:20_480]
    digest = hashlib.sha256(small).hexdigest()
    driver = Bent(step=999)
    guarded = filled(driver, small)
    assert guarded.read_whole(KEY, len(small), digest) == small
    for size, sha256 in [(len(small) - 1, digest), (len(small) + 1, digest), (len(small), SHA)]:
        with pytest.raises(ObjectDamaged):
            guarded.read_whole(KEY, size, sha256)
    assert all(stream.closed for stream in driver.opened)
    with pytest.raises(ValueError):
        guarded.read_whole(KEY, CHUNK + 1, digest)


@pytest.mark.parametrize("size", [0, 1, 2046, 2047, 2048, 2 * 2047, HASHED_AT_ONCE, HASHED_AT_ONCE + 1, CHUNK])
def test_read_whole_checks_every_byte_of_any_size(size: int) -> None:
    small = CONTENT[:size]
    digest = hashlib.sha256(small).hexdigest()
    assert filled(Bent(), small).read_whole(KEY, size, digest) == small
    for place in {0, size // 2, size - 1} if size else ():
        damaged = small[:place] + bytes([small[place] ^ 1]) + small[place + 1 :]
        with pytest.raises(ObjectDamaged):
            filled(Bent(), damaged).read_whole(KEY, size, digest)


def test_a_driver_that_gives_more_than_asked_is_stopped() -> None:
    driver = Bent()
    guarded = filled(driver)
    stream = guarded.open_verified(KEY, SIZE, SHA)
    asked: list[int] = []

    def read(size: int) -> bytes:
        asked.append(size)
        return CONTENT[: size + 1]

    driver.opened[0].read = read
    with pytest.raises(ObjectDamaged):
        stream.read(10)
    assert asked == [10]


# --- put ---------------------------------------------------------------------------------------------------------------


def test_put_returns_size_and_digest() -> None:
    stored = GuardedDriver(MemoryDriver()).put(KEY, BytesIO(CONTENT), SIZE)
    assert (stored.key, stored.size, stored.sha256) == (KEY, SIZE, SHA)


class StoresFlipped(MemoryDriver):
    def put(self, key: str, source: Any, size: int) -> ObjectInfo:
        super().put(key, source, size)
        info, content = self._objects[key]
        self._objects[key] = info, flipped(content)
        return info


class StoresShort(MemoryDriver):
    def put(self, key: str, source: Any, size: int) -> ObjectInfo:
        super().put(key, source, size)
        info, content = self._objects[key]
        self._objects[key] = info, content[:-1]
        return info


class TellsWrongSize(MemoryDriver):
    def put(self, key: str, source: Any, size: int) -> ObjectInfo:
        super().put(key, source, size)
        return ObjectInfo(key, size - 1, 0)


class TakesPart(MemoryDriver):
    def put(self, key: str, source: Any, size: int) -> ObjectInfo:
        return super().put(key, BytesIO(source.read(10)), 10)


class StoresFraming(MemoryDriver):
    """Keeps the framing of a chunked upload inside the object."""

    def put(self, key: str, source: Any, size: int) -> ObjectInfo:
        content = b"%x\r\n" % size + b"".join(iter(lambda: source.read(CHUNK), b"")) + b"\r\n0\r\n\r\n"
        return super().put(key, BytesIO(content), len(content))


class StoresNothing(MemoryDriver):
    def put(self, key: str, source: Any, size: int) -> ObjectInfo:
        while source.read(CHUNK):
            pass
        return ObjectInfo(key, size, 0)


@pytest.mark.parametrize("kind", [StoresFlipped, StoresShort, TellsWrongSize, TakesPart, StoresFraming])
def test_what_was_stored_wrongly_is_found_and_deleted(kind: type[MemoryDriver]) -> None:
    driver = kind()
    with pytest.raises(ObjectDamaged):
        GuardedDriver(driver).put(KEY, BytesIO(CONTENT), SIZE)
    assert list(driver.list()) == []


def test_what_was_not_stored_at_all_is_found() -> None:
    with pytest.raises(ObjectMissing):
        GuardedDriver(StoresNothing()).put(KEY, BytesIO(CONTENT), SIZE)


def test_a_put_that_loses_never_deletes_the_winners_object() -> None:
    guarded = filled(MemoryDriver())
    for size in (SIZE, SIZE - 1):
        with pytest.raises(ObjectExists):
            guarded.put(KEY, BytesIO(CONTENT), size)
    guarded.verify(KEY, SIZE, SHA)


def test_sizes_are_bounded_before_the_source_is_read() -> None:
    driver = MemoryDriver()
    driver.capabilities = Capabilities(put=True, max_object_size=99)
    source = BytesIO(CONTENT)
    with pytest.raises(ObjectTooLarge) as caught:
        GuardedDriver(driver).put(KEY, source, 100)
    assert isinstance(caught.value, BodyTooLarge)
    assert source.tell() == 0
    with pytest.raises(ValueError):
        GuardedDriver(driver).put(KEY, source, -1)


@pytest.mark.parametrize(("content", "size"), [(CONTENT, SIZE + 1), (CONTENT, SIZE - 1), (b"", 1), (b"x", 0)])
def test_a_wrong_declared_size_is_the_callers_fault(content: bytes, size: int) -> None:
    driver = MemoryDriver()
    with pytest.raises(SizeMismatch):
        GuardedDriver(driver).put(KEY, BytesIO(content), size)
    assert list(driver.list()) == []


class WrapsAnything(MemoryDriver):
    def put(self, key: str, source: Any, size: int) -> ObjectInfo:
        try:
            return super().put(key, source, size)
        except Exception as error:
            raise StoreUnreachable() from error


@pytest.mark.parametrize("kind", [MemoryDriver, WrapsAnything])
def test_the_sources_own_error_comes_out_as_it_is(kind: type[MemoryDriver]) -> None:
    class Leaving:
        error = TimeoutError("the client has left")

        def read(self, size: int, /) -> bytes:
            raise self.error

    seen: list[str] = []
    guarded = GuardedDriver(kind(), observe=lambda operation, seconds, outcome: seen.append(outcome))
    with pytest.raises(TimeoutError) as caught:
        guarded.put(KEY, Leaving(), 10)
    assert caught.value is Leaving.error
    assert seen == ["source-failed"]


# --- errors, timing, log -----------------------------------------------------------------------------------------------


class SDKError(Exception):
    pass


class Leaky(MemoryDriver):
    """Every operation lets an SDK's error through."""

    def _leak(self, *_: Any) -> Any:
        raise SDKError("AccessDenied for /srv/secret/1001 at https://bucket.example")

    open = stat = put = delete = list = health = sweep = close = _leak


@pytest.mark.parametrize(
    "call",
    [
        lambda guarded: guarded.open_verified(KEY, 1, SHA),
        lambda guarded: guarded.read_whole(KEY, 1, SHA),
        lambda guarded: guarded.stat(KEY),
        lambda guarded: guarded.put(KEY, BytesIO(b"x"), 1),
        lambda guarded: guarded.delete(KEY),
        lambda guarded: list(guarded.list()),
        lambda guarded: guarded.sweep(),
        lambda guarded: guarded.close(),
    ],
    ids=["open", "read_whole", "stat", "put", "delete", "list", "sweep", "close"],
)
def test_no_stray_error_comes_out(call: Callable[[GuardedDriver], object]) -> None:
    with structlog.testing.capture_logs() as logs, pytest.raises(UnexpectedStoreError) as caught:
        call(GuardedDriver(Leaky(), name="main"))
    assert isinstance(caught.value.__cause__, SDKError)
    assert caught.value.status == 502
    document = str(caught.value.document("r1"))
    assert "secret" not in document
    assert "bucket" not in document
    assert [(row["store"], row["cause"]) for row in logs] == [("main", "SDKError")]
    assert "1001" not in str(logs)


def test_a_stray_error_in_the_middle_of_a_stream() -> None:
    driver = Bent()
    guarded = filled(driver)
    stream = guarded.open_verified(KEY, SIZE, SHA)
    stream.read(10)

    def leak(size: int) -> bytes:
        raise SDKError("connection reset by 10.0.0.7")

    driver.opened[0].read = leak
    for _ in range(2):
        with pytest.raises(UnexpectedStoreError) as caught:
            stream.read(10)
    assert "10.0.0.7" not in str(caught.value)
    stream.close()


def test_health_never_raises() -> None:
    health = GuardedDriver(Leaky()).health()
    assert not health.ok
    assert "secret" not in str(health)
    assert GuardedDriver(MemoryDriver()).health().ok


@pytest.mark.parametrize("key", ["../x", "", "a b", "/etc/passwd"])
def test_no_bad_key_reaches_the_driver(key: str) -> None:
    with pytest.raises(InvalidKey):
        GuardedDriver(Leaky()).stat(key)
    with pytest.raises(InvalidKey):
        GuardedDriver(Leaky()).read_whole(key, 0, SHA)


def test_what_the_driver_cannot_do_is_refused_before_it_is_tried() -> None:
    driver = Leaky()
    driver.capabilities = Capabilities()
    with pytest.raises(OperationNotSupported):
        GuardedDriver(driver).put(KEY, BytesIO(b"x"), 1)


def test_every_call_is_timed_with_its_outcome() -> None:
    seen: list[tuple[str, str]] = []
    seconds: dict[str, float] = {}

    def observe(operation: str, took: float, outcome: str) -> None:
        seen.append((operation, outcome))
        seconds[operation] = took

    class Slow(MemoryDriver):
        def stat(self, key: str) -> ObjectInfo:
            time.sleep(0.02)
            return super().stat(key)

    guarded = GuardedDriver(Slow(), observe=observe)
    with pytest.raises(ObjectMissing):
        guarded.stat(KEY)
    guarded.put(KEY, BytesIO(b"abc"), 3)
    guarded.read_whole(KEY, 3, hashlib.sha256(b"abc").hexdigest())
    with guarded.open_verified(KEY, 3, SHA) as stream, pytest.raises(ObjectDamaged):
        stream.read(10)
    guarded.open_verified(KEY, 3, SHA).close()
    assert seen == [
        ("stat", "object-missing"),
        ("put", "ok"),
        ("open", "ok"),
        ("read", "ok"),
        ("close", "ok"),
        ("read", "ok"),
        ("open", "ok"),
        ("read", "object-damaged"),
        ("close", "ok"),
        ("open", "ok"),
        ("read", "left"),
        ("close", "ok"),
    ]
    assert 0.02 <= seconds["stat"] < 2
