"""What every driver must do, as tests: subclass, give a ``driver`` fixture with an empty store, run pytest.

Tests of what a driver's capabilities do not declare ask instead that it is refused. A store that cannot be put to is filled by an
overridden ``fill``. This is the only module of the package that imports pytest.
"""

import hashlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import TypeVar

import pytest

from node.contract.problems import RangeNotSatisfiable
from node.storage.errors import (
    InvalidKey,
    ObjectDamaged,
    ObjectExists,
    ObjectMissing,
    OperationNotSupported,
    SettingsError,
    SizeMismatch,
    StorageError,
)
from node.storage.guard import GuardedDriver
from node.storage.interface import CHUNK, ByteSource, ObjectStream, StorageDriver
from node.storage.keys import MAX_KEY, MAX_SEGMENT

KEY = "in.gov.example/incer/3f/1001.v1-0123456789abcdef.pdf"
OTHER = "in.gov.example/incer/3f/1002.v1-0123456789abcdef.pdf"
D100 = b"0123456789" * 10

Returned = TypeVar("Returned")

# Pairs that careless encoding, folding or prefix matching takes for one.
NEIGHBOURS = [
    ("a/B", "a/b"),
    ("A/x", "a/x"),
    ("a/50", "a/5025"),
    ("a/2B", "a/2b"),
    ("a/x", "a/x.pdf"),
    ("a/x", "a/x."),
    ("a/...", "a/...."),
    ("a/a..b", "a/a.b"),
    ("a/x~1", "a/x-1"),
    ("a/x_1", "a/x.1"),
    ("ab/c", "a/bc"),
    ("a/con", "a/con.txt"),
]

NO_KEYS = [
    "",
    "/",
    "/a",
    "a/",
    "a//b",
    ".",
    "..",
    "a/..",
    "../a",
    "a/../b",
    "a/./b",
    "..%2f..%2fetc%2fpasswd",
    "%252e%252e%252f",
    "a\0b",
    "a\nb",
    "a\n",
    "a b",
    "a+b",
    "50%",
    "50%25",
    "%2B",
    "a#b?c=d",
    "a&b",
    "a=b",
    ".tmp=1",
    "a\\b",
    "a:b",
    "a*",
    "\u00e9",
    "e\u0301",
    "\u092a\u094d\u0930\u092e\u093e\u0923",
    "\uff0e\uff0e",
    "\ud800",
    "a" * (MAX_SEGMENT + 1),
    "/".join(["a" * 100] * 6),
    "\u0915" * 90 + ".pdf",
]


class Pattern:
    """A source of any size that needs no memory: the byte at each place follows from the place."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._at = 0

    def read(self, size: int, /) -> bytes:
        piece = self.part(self._at, min(size, self.size - self._at))
        self._at += len(piece)
        return piece

    @staticmethod
    def part(offset: int, length: int) -> bytes:
        """Return what such a source has at a place; the period of 251 bytes fits no block size."""
        period = bytes(range(251))
        start = offset % 251
        return (period * (length // 251 + 2))[start : start + length]


class Faulty:
    """A source that calls something, or raises, once it has given a part."""

    def __init__(self, content: bytes, then: Callable[[], None]) -> None:
        self._content = BytesIO(content)
        self._then = then

    def read(self, size: int, /) -> bytes:
        piece = self._content.read(max(1, min(size, len(self._content.getvalue()) // 2)))
        if self._content.tell() >= len(self._content.getvalue()) // 2:
            self._then()
        return piece


class SourceError(Exception):
    """The source's own failure."""


def fail() -> None:
    """Fail as a source does whose client has left."""
    raise SourceError("the client has left")


def fail_as_system() -> None:
    """Fail as a file does on a broken disk; the store's disk is another one."""
    raise OSError(5, "not the store's")


def read_all(stream: ObjectStream, size: int = CHUNK) -> bytes:
    """Read a stream to its end in pieces and close it."""
    with stream:
        return b"".join(iter(lambda: stream.read(size), b""))


def together(count: int, action: Callable[[int], Returned]) -> list[Returned]:
    """Do something in several threads that start at one moment; return what each gave, raise what any raised."""
    barrier = threading.Barrier(count)

    def run(number: int) -> Returned:
        barrier.wait(10)
        return action(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


class DriverConformance:
    """The contract of ``node.storage.interface``, one test for each sentence of it."""

    large_size = 3 * 1024 * 1024 + 7

    @pytest.fixture
    def driver(self) -> Iterator[StorageDriver]:
        """Give an empty store; a subclass without a fixture of its own fails every test, and is not passed over."""
        raise NotImplementedError("override the fixture driver")

    @pytest.fixture
    def guarded(self, driver: StorageDriver) -> GuardedDriver:
        """Give the driver as services see it."""
        return GuardedDriver(driver)

    def fill(self, driver: StorageDriver, key: str, content: bytes) -> None:
        """Bring an object into the store; override for a store that has no put."""
        driver.put(key, BytesIO(content), len(content))

    def need(self, driver: StorageDriver, *capabilities: str) -> None:
        """Leave a test to drivers that declare what it needs; ``test_what_is_not_declared_is_refused`` has the others."""
        missing = [name for name in capabilities if not getattr(driver.capabilities, name)]
        if missing:
            pytest.skip(f"the driver does not declare {', '.join(missing)}")

    # --- reading -----------------------------------------------------------------------------------------------------------

    def test_reads_what_was_stored(self, driver: StorageDriver) -> None:
        self.fill(driver, KEY, D100)
        assert read_all(driver.open(KEY)) == D100

    def test_reads_in_pieces_no_larger_than_asked(self, driver: StorageDriver) -> None:
        self.fill(driver, KEY, D100)
        with driver.open(KEY) as stream:
            pieces = list(iter(lambda: stream.read(7), b""))
        assert b"".join(pieces) == D100
        assert all(1 <= len(piece) <= 7 for piece in pieces)

    def test_end_stays_the_end(self, driver: StorageDriver) -> None:
        self.fill(driver, KEY, b"x")
        with driver.open(KEY) as stream:
            assert stream.read(10) == b"x"
            assert [stream.read(10) for _ in range(3)] == [b"", b"", b""]

    def test_reads_an_empty_object(self, driver: StorageDriver) -> None:
        self.fill(driver, KEY, b"")
        assert driver.stat(KEY).size == 0
        assert read_all(driver.open(KEY)) == b""

    def test_reads_every_byte_value(self, driver: StorageDriver) -> None:
        content = bytes(range(256)) * 3 + b"\r\n\x1a\x00"
        self.fill(driver, KEY, content)
        assert read_all(driver.open(KEY)) == content

    @pytest.mark.parametrize("size", [CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK])
    def test_reads_sizes_around_a_chunk(self, driver: StorageDriver, size: int) -> None:
        content = Pattern.part(0, size)
        self.fill(driver, KEY, content)
        assert read_all(driver.open(KEY)) == content

    def test_opens_one_object_twice(self, driver: StorageDriver) -> None:
        self.fill(driver, KEY, D100)
        with driver.open(KEY) as first, driver.open(KEY) as second:
            assert first.read(5) == b"01234"
            assert second.read(5) == b"01234"
            assert first.read(5) == b"56789"

    def test_open_missing_raises_at_once(self, driver: StorageDriver) -> None:
        self.fill(driver, OTHER, D100)
        with pytest.raises(ObjectMissing):
            driver.open(KEY)

    def test_open_of_a_folder_is_missing(self, driver: StorageDriver) -> None:
        self.fill(driver, KEY, D100)
        with pytest.raises(ObjectMissing):
            driver.open(KEY.rpartition("/")[0])

    def test_open_beneath_an_object_is_missing(self, driver: StorageDriver) -> None:
        self.fill(driver, "a/b", D100)
        with pytest.raises(ObjectMissing):
            driver.open("a/b/c")

    def test_missing_is_not_remembered(self, driver: StorageDriver) -> None:
        with pytest.raises(ObjectMissing):
            driver.open(KEY)
        self.fill(driver, KEY, D100)
        assert read_all(driver.open(KEY)) == D100

    def test_closed_stream_refuses_to_read(self, driver: StorageDriver) -> None:
        self.fill(driver, KEY, D100)
        stream = driver.open(KEY)
        stream.read(5)
        stream.close()
        stream.close()
        with pytest.raises(ValueError):
            stream.read(5)

    def test_reads_from_many_threads(self, driver: StorageDriver) -> None:
        keys = [f"a/{number}" for number in range(8)]
        for number, key in enumerate(keys):
            self.fill(driver, key, Pattern.part(number, 50_000))

        def read(number: int) -> bool:
            return all(read_all(driver.open(keys[number])) == Pattern.part(number, 50_000) for _ in range(10))

        assert all(together(len(keys), read))

    # --- ranges ------------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("offset", "length"),
        [(0, 0), (0, 1), (0, 99), (0, 100), (1, 1), (1, 98), (1, 99), (13, 44), (50, 50), (98, 1), (99, 1), (100, 0)],
    )
    def test_range_gives_exactly_its_bytes(self, driver: StorageDriver, offset: int, length: int) -> None:
        self.need(driver, "ranges")
        self.fill(driver, KEY, D100)
        assert read_all(driver.open(KEY, offset, length)) == D100[offset : offset + length]

    @pytest.mark.parametrize("offset", [0, 1, 50, 99, 100])
    def test_range_without_length_goes_to_the_end(self, driver: StorageDriver, offset: int) -> None:
        self.need(driver, "ranges")
        self.fill(driver, KEY, D100)
        assert read_all(driver.open(KEY, offset)) == D100[offset:]

    @pytest.mark.parametrize(("offset", "length"), [(0, 101), (50, 51), (99, 2), (99, 10**9)])
    def test_range_past_the_end_gives_what_there_is(self, driver: StorageDriver, offset: int, length: int) -> None:
        self.need(driver, "ranges")
        self.fill(driver, KEY, D100)
        assert read_all(driver.open(KEY, offset, length)) == D100[offset:]

    @pytest.mark.parametrize("length", [None, 1, 10])
    @pytest.mark.parametrize("offset", [100, 101, 10**9])
    def test_range_that_begins_past_the_end_is_empty(
        self, driver: StorageDriver, offset: int, length: int | None
    ) -> None:
        self.need(driver, "ranges")
        self.fill(driver, KEY, D100)
        assert read_all(driver.open(KEY, offset, length)) == b""

    def test_range_of_missing_is_missing(self, driver: StorageDriver) -> None:
        self.need(driver, "ranges")
        with pytest.raises(ObjectMissing):
            driver.open(KEY, 1, 1)

    def test_ranges_across_chunks(self, driver: StorageDriver) -> None:
        self.need(driver, "ranges")
        self.fill(driver, KEY, Pattern.part(0, 2 * CHUNK + 11))
        for offset, length in [(CHUNK - 1, 2), (CHUNK, CHUNK), (1, 2 * CHUNK), (2 * CHUNK, 11)]:
            assert read_all(driver.open(KEY, offset, length)) == Pattern.part(offset, length)

    def test_guarded_range_works_with_or_without_ranges(self, driver: StorageDriver, guarded: GuardedDriver) -> None:
        self.fill(driver, KEY, D100)
        digest = hashlib.sha256(D100).hexdigest()
        assert read_all(guarded.open_verified(KEY, 100, digest, 13, 44)) == D100[13:57]
        assert read_all(guarded.open_verified(KEY, 100, digest, 99, 1)) == b"9"

    # --- stat --------------------------------------------------------------------------------------------------------------

    def test_stat_tells_key_size_and_time(self, driver: StorageDriver) -> None:
        self.fill(driver, KEY, D100)
        info = driver.stat(KEY)
        assert (info.key, info.size) == (KEY, 100)
        # After 2020 and before 2100: microseconds, not seconds or nanoseconds.
        assert 1_577_836_800_000_000 < info.modified_us < 4_102_444_800_000_000

    def test_stat_missing(self, driver: StorageDriver) -> None:
        with pytest.raises(ObjectMissing):
            driver.stat(KEY)

    def test_stat_of_a_folder_is_missing(self, driver: StorageDriver) -> None:
        self.fill(driver, KEY, D100)
        with pytest.raises(ObjectMissing):
            driver.stat(KEY.partition("/")[0])

    # --- put ---------------------------------------------------------------------------------------------------------------

    def test_put_tells_what_it_stored(self, driver: StorageDriver) -> None:
        self.need(driver, "put")
        info = driver.put(KEY, BytesIO(D100), 100)
        assert (info.key, info.size) == (KEY, 100)
        assert driver.stat(KEY).size == 100

    def test_put_takes_large_streams(self, driver: StorageDriver) -> None:
        self.need(driver, "put")
        driver.put(KEY, Pattern(self.large_size), self.large_size)
        digest, size = hashlib.sha256(), 0
        with driver.open(KEY) as stream:
            while piece := stream.read(CHUNK):
                digest.update(piece)
                size += len(piece)
        assert size == self.large_size
        assert digest.hexdigest() == hashlib.sha256(Pattern.part(0, self.large_size)).hexdigest()

    def test_put_reads_its_source_piecewise(self, driver: StorageDriver) -> None:
        self.need(driver, "put")
        asked: list[int] = []

        class Watched(Pattern):
            def read(self, size: int, /) -> bytes:
                asked.append(size)
                return super().read(size)

        driver.put(KEY, Watched(CHUNK * 3), CHUNK * 3)
        assert asked
        assert all(0 < size <= CHUNK for size in asked)

    def test_put_takes_a_source_that_gives_little_at_a_time(self, driver: StorageDriver) -> None:
        self.need(driver, "put")

        class Trickle(Pattern):
            def read(self, size: int, /) -> bytes:
                return super().read(min(size, 3))

        driver.put(KEY, Trickle(1000), 1000)
        assert read_all(driver.open(KEY)) == Pattern.part(0, 1000)

    def test_put_leaves_its_source_open(self, driver: StorageDriver) -> None:
        self.need(driver, "put")
        source = BytesIO(D100)
        driver.put(KEY, source, 100)
        assert not source.closed

    def test_put_never_overwrites(self, driver: StorageDriver) -> None:
        self.need(driver, "put")
        driver.put(KEY, BytesIO(D100), 100)
        for content in (D100, b"other"):
            with pytest.raises(ObjectExists):
                driver.put(KEY, BytesIO(content), len(content))
        assert read_all(driver.open(KEY)) == D100

    @pytest.mark.parametrize("size", [10, 400_000])
    def test_concurrent_puts_have_one_winner(self, driver: StorageDriver, size: int) -> None:
        self.need(driver, "put")
        contents = [bytes([number]) * size for number in range(8)]

        def put(number: int) -> bool:
            try:
                driver.put(KEY, BytesIO(contents[number]), size)
            except ObjectExists:
                return False
            return True

        won = together(8, put)
        assert won.count(True) == 1
        assert read_all(driver.open(KEY)) == contents[won.index(True)]

    def test_concurrent_puts_of_different_keys_all_win(self, driver: StorageDriver) -> None:
        self.need(driver, "put")

        def put(number: int) -> int:
            return driver.put(f"new/folder/{number}", Pattern(1000 + number), 1000 + number).size

        assert together(8, put) == [1000 + number for number in range(8)]
        assert all(len(read_all(driver.open(f"new/folder/{number}"))) == 1000 + number for number in range(8))

    @pytest.mark.parametrize("failure", [fail, fail_as_system])
    def test_failing_source_leaves_nothing(self, driver: StorageDriver, failure: Callable[[], None]) -> None:
        self.need(driver, "put")
        with pytest.raises((SourceError, OSError)) as caught:
            driver.put(KEY, Faulty(D100 * 10_000, failure), 1_000_000)
        assert type(caught.value) in (SourceError, OSError), "the source's own error passes through unchanged"
        self._require_nothing_left(driver)

    def test_short_source_leaves_nothing(self, driver: StorageDriver) -> None:
        self.need(driver, "put")
        for content, size in [(b"", 1), (D100, 101), (Pattern.part(0, CHUNK), CHUNK + 1)]:
            with pytest.raises(SizeMismatch):
                driver.put(KEY, BytesIO(content), size)
            self._require_nothing_left(driver)

    def test_long_source_leaves_nothing(self, driver: StorageDriver) -> None:
        self.need(driver, "put")
        for content, size in [(b"x", 0), (D100, 99), (Pattern.part(0, CHUNK + 1), CHUNK)]:
            with pytest.raises(SizeMismatch):
                driver.put(KEY, BytesIO(content), size)
            self._require_nothing_left(driver)

    def test_put_works_after_a_failed_one(self, driver: StorageDriver) -> None:
        self.need(driver, "put")
        with pytest.raises(SourceError):
            driver.put(KEY, Faulty(D100, fail), 100)
        driver.put(KEY, BytesIO(D100), 100)
        assert read_all(driver.open(KEY)) == D100

    def test_nothing_is_seen_while_putting(self, driver: StorageDriver) -> None:
        self.need(driver, "put")
        looks: list[str] = []

        def look() -> None:
            for operation in (driver.open, driver.stat):
                with pytest.raises(ObjectMissing):
                    operation(KEY)
            looks.append("looked")

        driver.put(KEY, Faulty(D100, look), 100)
        assert looks
        assert read_all(driver.open(KEY)) == D100

    def test_a_put_beneath_an_object_harms_nothing(self, driver: StorageDriver) -> None:
        self.need(driver, "put")
        for key, beneath in [("a/b", "a/b/c"), ("x/y/z", "x/y")]:
            driver.put(key, BytesIO(D100), 100)
            try:
                driver.put(beneath, BytesIO(b"other"), 5)
            except ObjectExists:
                pass
            else:
                assert read_all(driver.open(beneath)) == b"other"
            assert read_all(driver.open(key)) == D100

    def test_guarded_put_is_read_back(self, driver: StorageDriver, guarded: GuardedDriver) -> None:
        self.need(driver, "put")
        stored = guarded.put(KEY, Pattern(CHUNK + 5), CHUNK + 5)
        content = Pattern.part(0, CHUNK + 5)
        assert (stored.size, stored.sha256) == (len(content), hashlib.sha256(content).hexdigest())
        assert read_all(guarded.open_verified(KEY, stored.size, stored.sha256)) == content

    # --- keys --------------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(("one", "two"), NEIGHBOURS)
    def test_neighbouring_keys_never_meet(self, driver: StorageDriver, one: str, two: str) -> None:
        self.fill(driver, one, one.encode())
        with pytest.raises(ObjectMissing):
            driver.open(two)
        self.fill(driver, two, two.encode())
        assert read_all(driver.open(one)) == one.encode()
        assert read_all(driver.open(two)) == two.encode()

    @pytest.mark.parametrize(
        "key",
        ["x", "a/...", "a/a..b", "con", "aux/nul.txt", "trailing.", "~x", "-rf", ".hidden", "a/.tmp-1", "b/.tmp"],
    )
    def test_odd_but_legal_keys(self, driver: StorageDriver, key: str) -> None:
        self.fill(driver, key, key.encode())
        assert read_all(driver.open(key)) == key.encode()
        assert driver.stat(key).key == key

    def test_longest_keys(self, driver: StorageDriver) -> None:
        for key in ("s" * MAX_SEGMENT, "/".join(["k" * 127] * 4)):
            assert len(key) <= MAX_KEY
            self.fill(driver, key, key.encode())
            assert read_all(driver.open(key)) == key.encode()

    @pytest.mark.parametrize("key", NO_KEYS, ids=ascii)
    def test_no_keys_are_refused_at_the_door(self, guarded: GuardedDriver, key: str) -> None:
        digest = hashlib.sha256(b"").hexdigest()
        calls: list[Callable[[], object]] = [
            lambda: guarded.open_verified(key, 0, digest),
            lambda: guarded.read_whole(key, 0, digest),
            lambda: guarded.stat(key),
            lambda: guarded.put(key, BytesIO(), 0),
            lambda: guarded.delete(key),
        ]
        for call in calls:
            with pytest.raises(InvalidKey):
                call()

    # --- delete ------------------------------------------------------------------------------------------------------------

    def test_delete_removes_one_object(self, driver: StorageDriver) -> None:
        self.need(driver, "delete")
        self.fill(driver, KEY, D100)
        self.fill(driver, OTHER, D100)
        driver.delete(KEY)
        with pytest.raises(ObjectMissing):
            driver.open(KEY)
        with pytest.raises(ObjectMissing):
            driver.stat(KEY)
        assert read_all(driver.open(OTHER)) == D100

    def test_delete_is_idempotent(self, driver: StorageDriver) -> None:
        self.need(driver, "delete")
        driver.delete(KEY)
        self.fill(driver, KEY, D100)
        driver.delete(KEY)
        driver.delete(KEY)

    def test_delete_of_a_folder_removes_nothing(self, driver: StorageDriver) -> None:
        self.need(driver, "delete")
        self.fill(driver, KEY, D100)
        driver.delete(KEY.rpartition("/")[0])
        driver.delete(KEY + "/x")
        assert read_all(driver.open(KEY)) == D100

    def test_a_deleted_key_can_be_put_again(self, driver: StorageDriver) -> None:
        self.need(driver, "delete", "put")
        driver.put(KEY, BytesIO(D100), 100)
        driver.delete(KEY)
        driver.put(KEY, BytesIO(b"new"), 3)
        assert read_all(driver.open(KEY)) == b"new"

    # --- list --------------------------------------------------------------------------------------------------------------

    def test_list_of_an_empty_store(self, driver: StorageDriver) -> None:
        self.need(driver, "list")
        assert list(driver.list()) == []
        assert list(driver.list("no/such/folder/")) == []

    def test_list_gives_each_object_once(self, driver: StorageDriver) -> None:
        self.need(driver, "list")
        sizes = {f"a/{number % 3}/{number}": number for number in range(30)}
        for key, size in sizes.items():
            self.fill(driver, key, b"x" * size)
        listed = list(driver.list())
        assert len(listed) == len(sizes)
        assert {info.key: info.size for info in listed} == sizes
        assert listed[0] == driver.stat(listed[0].key)

    @pytest.mark.parametrize(
        ("prefix", "expected"),
        [
            ("", {"a/b", "a/bc", "ab/c", "b"}),
            ("a", {"a/b", "a/bc", "ab/c"}),
            ("a/", {"a/b", "a/bc"}),
            ("a/b", {"a/b", "a/bc"}),
            ("a/b/", set()),
            ("A/", set()),
            ("c/", set()),
        ],
    )
    def test_list_under_a_prefix(self, driver: StorageDriver, prefix: str, expected: set[str]) -> None:
        self.need(driver, "list")
        for key in ("a/b", "a/bc", "ab/c", "b"):
            self.fill(driver, key, b"x")
        assert {info.key for info in driver.list(prefix)} == expected

    def test_list_shows_nothing_half_written(self, driver: StorageDriver) -> None:
        self.need(driver, "list", "put")
        seen: list[list[str]] = []
        folder = KEY.rpartition("/")[0]

        def look() -> None:
            seen.append([info.key for prefix in ("", folder + "/") for info in driver.list(prefix)])

        driver.put(KEY, Faulty(D100, look), 100)
        assert seen
        assert not any(seen)
        assert [info.key for info in driver.list()] == [KEY]

    def test_list_forgets_what_was_deleted(self, driver: StorageDriver) -> None:
        self.need(driver, "list", "delete")
        self.fill(driver, KEY, D100)
        driver.delete(KEY)
        assert list(driver.list()) == []

    @pytest.mark.parametrize("prefix", ["../", "/", "a//", "a/../b", "a b", "\u00e9", "a\0"])
    def test_no_prefixes_are_refused_at_the_door(self, guarded: GuardedDriver, prefix: str) -> None:
        with pytest.raises(InvalidKey):
            list(guarded.list(prefix))

    # --- damage, settings, health ------------------------------------------------------------------------------------------

    def test_damage_is_found(self, driver: StorageDriver, guarded: GuardedDriver) -> None:
        self.fill(driver, KEY, D100)
        right, wrong = hashlib.sha256(D100).hexdigest(), hashlib.sha256(b"other").hexdigest()
        for size, digest in [(100, wrong), (99, right), (101, right)]:
            with pytest.raises(ObjectDamaged):
                guarded.read_whole(KEY, size, digest)
            with pytest.raises(ObjectDamaged):
                read_all(guarded.open_verified(KEY, size, digest))
        with pytest.raises(ObjectDamaged):
            read_all(guarded.open_verified(KEY, 200, right, 50, 100))
        with pytest.raises(RangeNotSatisfiable):
            guarded.open_verified(KEY, 100, right, 50, 51)

    def test_errors_are_ours_and_tell_no_place(self, driver: StorageDriver) -> None:
        with pytest.raises(StorageError) as caught:
            driver.open(KEY)
        assert KEY not in str(caught.value)
        assert caught.value.detail == ObjectMissing.sentence

    def test_unknown_option_is_named(self, driver: StorageDriver) -> None:
        with pytest.raises(SettingsError, match="no_such_option"):
            type(driver).from_settings({**self.settings(), "no_such_option": 1})

    def settings(self) -> dict[str, object]:
        """Return the options that the driver cannot do without."""
        return {}

    def test_health_of_a_healthy_store(self, driver: StorageDriver) -> None:
        health = driver.health()
        assert health.ok
        assert health.read.ok is True
        assert health.write.ok is (True if driver.capabilities.put else None)
        assert health.free_bytes is None or health.free_bytes >= 0
        assert all(finding.sentence for finding in health.findings.values())

    def test_health_leaves_nothing(self, driver: StorageDriver) -> None:
        driver.health()
        self._require_nothing_left(driver)

    def test_sweep_removes_no_object(self, driver: StorageDriver) -> None:
        self.fill(driver, KEY, D100)
        assert driver.sweep() == 0
        assert read_all(driver.open(KEY)) == D100

    def test_what_is_not_declared_is_refused(self, driver: StorageDriver) -> None:
        can = driver.capabilities
        undeclared: list[Callable[[], object]] = []
        if not can.put:
            undeclared.append(lambda: driver.put(KEY, BytesIO(D100), 100))
        if not can.delete:
            undeclared.append(lambda: driver.delete(KEY))
        if not can.list:
            undeclared.append(lambda: list(driver.list()))
        for call in undeclared:
            with pytest.raises(OperationNotSupported):
                call()

    def test_close_is_idempotent(self, driver: StorageDriver) -> None:
        self.fill(driver, KEY, D100)
        driver.close()
        driver.close()

    def _require_nothing_left(self, driver: StorageDriver) -> None:
        """Require that a store in which nothing was stored looks like it."""
        with pytest.raises(ObjectMissing):
            driver.open(KEY)
        with pytest.raises(ObjectMissing):
            driver.stat(KEY)
        if driver.capabilities.list:
            assert list(driver.list()) == []


__all__ = ["ByteSource", "DriverConformance", "Faulty", "Pattern", "read_all", "together"]
