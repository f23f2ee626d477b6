"""The filesystem driver keeps the whole contract, stays beneath its root, and is crash-safe by the order of its system calls."""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from drivers import beneath, filesystem
from drivers.filesystem import FilesystemDriver
from drivers.newfile import TEMPORARY, NewFile
from node.storage.conformance import DriverConformance, Faulty, Pattern, read_all
from node.storage.errors import (
    AccessRefused,
    InvalidKey,
    ObjectDamaged,
    ObjectExists,
    ObjectMissing,
    ObjectTooLarge,
    StorageError,
    StoreBusy,
    StoreFull,
    StoreUnreachable,
)
from node.storage.guard import GuardedDriver
from node.storage.interface import StorageDriver

KEY = "in.gov.x/incom/3f/1001.v1-0123456789abcdef.pdf"
SECRET = b"outside the root"


class TestFilesystemDriver(DriverConformance):
    @pytest.fixture
    def driver(self, tmp_path: Path) -> Iterator[StorageDriver]:
        self.root = tmp_path
        driver = FilesystemDriver.from_settings({"root": str(tmp_path)})
        yield driver
        driver.close()

    def settings(self) -> dict[str, object]:
        return {"root": str(self.root)}


class TestFilesystemDriverWithoutOpenat2(TestFilesystemDriver):
    """The same where the kernel cannot walk for us."""

    @pytest.fixture(autouse=True)
    def no_openat2(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(beneath, "_OPENAT2", 100_000)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


@pytest.fixture(params=["openat2", "walk"])
def driver(root: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[FilesystemDriver]:
    if request.param == "walk":
        monkeypatch.setattr(beneath, "_OPENAT2", 100_000)
    driver = FilesystemDriver(root, sweep_age_seconds=0)
    assert driver._beneath._kernel_walks is (request.param == "openat2")
    yield driver
    driver.close()


def put(driver: FilesystemDriver, key: str = KEY, content: bytes = b"content") -> None:
    driver.put(key, BytesIO(content), len(content))


def tree(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir() or path.is_symlink()}


# --- no way out of the root --------------------------------------------------------------------------------------------


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret").write_bytes(SECRET)
    return folder


@pytest.mark.parametrize(
    ("link", "target", "key"),
    [
        ("leak", "{outside}/secret", "leak"),
        ("leak", "../outside/secret", "leak"),
        ("folder", "{outside}", "folder/secret"),
        ("folder", "../outside", "folder/secret"),
        ("a/b/folder", "{outside}", "a/b/folder/secret"),
        ("self", "/proc/self/root{outside}", "self/secret"),
        ("inside", "{root}/real", "inside/x"),
    ],
)
def test_no_link_is_followed(
    driver: FilesystemDriver, root: Path, outside: Path, link: str, target: str, key: str
) -> None:
    put(driver, "real/x")
    (root / link).parent.mkdir(parents=True, exist_ok=True)
    (root / link).symlink_to(target.format(outside=outside, root=root))
    for call in (driver.open, driver.stat):
        with pytest.raises(ObjectMissing):
            call(key)
    with pytest.raises(ObjectExists):
        put(driver, key)
    with pytest.raises(ObjectExists):
        put(driver, key + "-new" if "/" in key else f"{key}/new")
    driver.delete(key)
    assert {info.key for info in driver.list()} == {"real/x"}
    assert list(driver.list(key)) == []
    driver.sweep()
    assert {path.name: path.read_bytes() for path in outside.iterdir()} == {"secret": SECRET}


def test_a_link_swapped_in_under_a_running_reader(driver: FilesystemDriver, root: Path, outside: Path) -> None:
    """A folder that turns into a link and back, many times a second, never shows what lies outside."""
    put(driver, "a/secret", b"inside")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            (root / "a").rename(root / "kept")
            (root / "a").symlink_to(outside)
            (root / "a").unlink()
            (root / "kept").rename(root / "a")

    swapper = threading.Thread(target=swap)
    swapper.start()
    seen = set()
    try:
        until = time.monotonic() + 0.4
        while time.monotonic() < until:
            try:
                seen.add(read_all(driver.open("a/secret")))
            except ObjectMissing:
                seen.add(b"missing")
    finally:
        stop.set()
        swapper.join()
    assert seen <= {b"inside", b"missing"}
    assert seen


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.mkdir(path)], ids=["pipe", "folder"])
def test_what_is_no_plain_file_is_no_object(driver: FilesystemDriver, root: Path, make: Callable[[str], None]) -> None:
    make(str(root / "thing"))
    for call in (driver.open, driver.stat):
        with pytest.raises(ObjectMissing):
            call("thing")
    driver.delete("thing")
    assert (root / "thing").exists()
    assert list(driver.list()) == []


@pytest.mark.parametrize("key", ["../../etc/passwd", "/etc/passwd", "a/../../b", "..%2f..%2fetc%2fpasswd", "a\0b"])
def test_the_door_keeps_paths_out(driver: FilesystemDriver, key: str) -> None:
    with pytest.raises(InvalidKey):
        GuardedDriver(driver).stat(key)


@pytest.mark.parametrize("key", ["../outside/secret", "a/../../outside/secret", "..", "/etc/passwd", "a/.."])
def test_even_past_the_door_there_is_no_way_out(driver: FilesystemDriver, outside: Path, key: str) -> None:
    put(driver, "a/x")
    calls: list[Callable[[], object]] = [
        lambda: driver.open(key),
        lambda: driver.stat(key),
        lambda: put(driver, key),
        lambda: driver.delete(key),
        lambda: list(driver.list(key)),
    ]
    for call in calls:
        with contextlib.suppress(InvalidKey, ObjectMissing, ObjectExists):
            assert call() in (None, []), "nothing is read"
    assert {path.name: path.read_bytes() for path in outside.iterdir()} == {"secret": SECRET}


def test_the_root_may_be_reached_by_a_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    driver = FilesystemDriver(tmp_path / "link")
    put(driver)
    assert (root / KEY).read_bytes() == b"content"


def test_a_name_too_long_for_the_system_is_an_invalid_key(driver: FilesystemDriver) -> None:
    for call in (driver.open, driver.stat, lambda key: put(driver, key)):
        with pytest.raises(InvalidKey):
            call("x" * 256)


def test_files_and_folders_are_the_owners_alone(driver: FilesystemDriver, root: Path) -> None:
    before = os.umask(0)
    try:
        put(driver)
    finally:
        os.umask(before)
    assert stat.S_IMODE((root / KEY).stat().st_mode) == 0o600
    assert {stat.S_IMODE(path.stat().st_mode) for path in root.rglob("*") if path.is_dir()} == {0o700}


def test_no_descriptor_leaks(driver: FilesystemDriver) -> None:
    put(driver)
    calls: list[Callable[[], object]] = [
        lambda: read_all(driver.open(KEY)),
        lambda: driver.open("a/missing"),
        lambda: driver.open("in.gov.x"),
        lambda: driver.stat(KEY),
        lambda: put(driver, KEY),
        lambda: put(driver, "new/x"),
        lambda: driver.delete("new/x"),
        lambda: driver.delete("no/x"),
        lambda: put(driver, KEY + "/x"),
        lambda: driver.put("new/y", BytesIO(b"x"), 2),
        lambda: list(driver.list()),
        lambda: next(driver.list()),
        driver.sweep,
        driver.health,
    ]
    before = len(os.listdir("/proc/self/fd"))
    for call in calls * 2:
        with contextlib.suppress(StorageError):
            call()
    assert len(os.listdir("/proc/self/fd")) == before


# --- a put survives a crash, or never was ------------------------------------------------------------------------------

SMALL_PUT = """
import sys
from io import BytesIO
from pathlib import Path
from drivers.filesystem import FilesystemDriver
driver = FilesystemDriver(Path(sys.argv[1]))
print("begin", flush=True)
driver.put(sys.argv[2], BytesIO(b"content"), 7)
print("end", flush=True)
"""

TRACED = "openat,openat2,mkdirat,write,fsync,fdatasync,linkat,link,rename,renameat,renameat2,unlink,unlinkat,close"


def trace_put(root: Path, key: str, log: Path) -> list[str]:
    """Return the system calls between the two marks of a small put, as strace prints them."""
    subprocess.run(
        ["strace", "-f", "-y", "-e", f"trace={TRACED}", "-o", str(log), sys.executable, "-c", SMALL_PUT, str(root), key],
        check=True, timeout=60, capture_output=True,
    )  # fmt: skip
    lines = [line.partition(" ")[2].strip() for line in log.read_text().splitlines()]
    begin = next(place for place, line in enumerate(lines) if '"begin' in line)
    end = next(place for place, line in enumerate(lines) if '"end' in line)
    return [line for line in lines[begin + 1 : end] if not line.startswith("close") and " = -1 " not in line]


def place_of(calls: list[str], pattern: str) -> int:
    found = [place for place, call in enumerate(calls) if re.match(pattern, call)]
    assert len(found) == 1, (pattern, calls)
    return found[0]


def test_the_order_of_a_put(root: Path, tmp_path: Path) -> None:
    calls = trace_put(root, KEY, tmp_path / "trace")
    folder, name = KEY.rsplit("/", 1)
    inside = re.escape(str(root / folder))
    temporary = re.escape(TEMPORARY) + "[0-9a-f]+"
    order = [
        place_of(calls, rf'openat\(\d+<{inside}>, "{temporary}", O_WRONLY\|O_CREAT\|O_EXCL.*0600'),
        place_of(calls, rf'write\(\d+<{inside}/{temporary}>, "content", 7\)'),
        place_of(calls, rf"fsync\(\d+<{inside}/{temporary}>\)"),
        place_of(calls, rf'linkat\(\d+<{inside}>, "{temporary}", \d+<{inside}>, "{re.escape(name)}", 0\)'),
        place_of(calls, rf'unlinkat\(\d+<{inside}>, "{temporary}", 0\)'),
        place_of(calls, rf"fsync\(\d+<{inside}>\)"),
    ]
    assert order == sorted(order)
    assert not any(call.startswith(("rename", "unlink(")) for call in calls)


def test_new_folders_are_made_durable_before_the_object(root: Path, tmp_path: Path) -> None:
    calls = trace_put(root, KEY, tmp_path / "trace")
    link = place_of(calls, "linkat")
    parts = KEY.split("/")[:-1]
    for depth, part in enumerate(parts):
        parent = re.escape(str(root.joinpath(*parts[:depth])))
        made = place_of(calls, rf'mkdirat\(\d+<{parent}>, "{re.escape(part)}", 0700\)')
        assert made < place_of(calls, rf"fsync\(\d+<{parent}>\)") < link


def test_a_deleted_object_stays_deleted_after_a_crash(
    driver: FilesystemDriver, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(driver)
    synced: list[tuple[str, bool]] = []
    real = os.fsync

    def watch(fd: int) -> None:
        synced.append((os.readlink(f"/proc/self/fd/{fd}"), (root / KEY).exists()))
        real(fd)

    monkeypatch.setattr(os, "fsync", watch)
    driver.delete(KEY)
    assert synced == [(str((root / KEY).parent), False)]


SLOW_PUT = """
import sys, time
from pathlib import Path
from drivers.filesystem import FilesystemDriver
from node.storage.conformance import Pattern
size = int(sys.argv[3])
class Slow(Pattern):
    given = 0
    def read(self, wanted, /):
        piece = super().read(wanted)
        self.given += len(piece)
        if self.given >= size // 2:
            print("half", flush=True)
            time.sleep(float(sys.argv[4]))
        return piece
driver = FilesystemDriver(Path(sys.argv[1]))
print("started", flush=True)
driver.put(sys.argv[2], Slow(size), size)
print("stored", flush=True)
"""


def start_slow_put(root: Path, size: int, pause: float) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_PUT, str(root), KEY, str(size), str(pause)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "started\n"
    return process


def test_a_killed_put_leaves_nothing_and_is_swept(root: Path, driver: FilesystemDriver) -> None:
    process = start_slow_put(root, 5_000_000, 60)
    assert process.stdout
    assert process.stdout.readline() == "half\n"
    leftovers = tree(root)
    assert len(leftovers) == 1
    assert TEMPORARY in leftovers.pop()
    assert driver.sweep() == 0, "the writer lives"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    for call in (driver.open, driver.stat):
        with pytest.raises(ObjectMissing):
            call(KEY)
    assert list(driver.list()) == []
    assert FilesystemDriver(root).sweep() == 0, "it is young"
    assert driver.sweep() == 1
    assert tree(root) == set()
    put(driver)
    assert read_all(driver.open(KEY)) == b"content"


def test_a_kill_at_any_moment_leaves_all_or_nothing(root: Path, soak: Any) -> None:
    size = 3_000_000
    whole = hashlib.sha256(Pattern.part(0, size)).hexdigest()
    for turn in range(soak.count(small=3, full=60)):
        process = start_slow_put(root, size, 0)
        time.sleep(0.002 * turn)
        process.kill()
        assert process.stdout
        told = process.stdout.read()
        process.stdout.close()
        process.wait()
        driver = FilesystemDriver(root, sweep_age_seconds=0)
        driver.sweep()
        assert tree(root) <= {KEY}
        if "stored" in told or tree(root):
            GuardedDriver(driver).verify(KEY, size, whole)
        driver.delete(KEY)
        driver.close()


def test_a_reader_never_sees_a_part(root: Path, driver: FilesystemDriver) -> None:
    size = 4_000_000
    process = start_slow_put(root, size, 0.02)
    sizes = set()
    while process.poll() is None:
        try:
            sizes.add(driver.stat(KEY).size)
            with driver.open(KEY) as stream:
                sizes.add(sum(map(len, iter(lambda: stream.read(10**6), b""))))
        except ObjectMissing:
            sizes.add(0)
        time.sleep(0.002)
    assert process.stdout
    process.stdout.close()
    assert process.returncode == 0
    assert sizes <= {0, size}
    assert 0 in sizes
    GuardedDriver(driver).verify(KEY, size, hashlib.sha256(Pattern.part(0, size)).hexdigest())


def test_sweep_removes_only_old_and_ownerless_temporaries(root: Path) -> None:
    driver = FilesystemDriver(root, sweep_age_seconds=30)
    put(driver, "a/.tmp-not-ours")
    folder = os.open(root / "a", os.O_RDONLY)
    living = NewFile(folder)
    for name in ("old", "young"):
        (root / "a" / (TEMPORARY + name)).write_bytes(b"x")
    past = time.time() - 60
    for entry in (root / "a").iterdir():
        if not entry.name.endswith("young"):
            os.utime(entry, (past, past))
    assert driver.sweep() == 1
    assert tree(root) == {"a/.tmp-not-ours", f"a/{TEMPORARY}young", f"a/{living._name}"}
    living.close()
    os.close(folder)
    assert {info.key for info in driver.list()} == {"a/.tmp-not-ours"}


def test_a_temporary_is_locked_while_its_writer_lives(root: Path, driver: FilesystemDriver) -> None:
    seen: list[bool] = []

    def look() -> None:
        (temporary,) = root.rglob(TEMPORARY + "*")
        with temporary.open("r+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                seen.append(True)
            else:
                seen.append(False)

    driver.put(KEY, Faulty(b"0123456789", look), 10)
    assert seen
    assert all(seen)


# --- faults of the system ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, StoreFull),
        (errno.EDQUOT, StoreFull),
        (errno.EIO, StoreUnreachable),
        (errno.ESTALE, StoreUnreachable),
        (errno.EROFS, AccessRefused),
        (errno.EFBIG, ObjectTooLarge),
        (errno.EMFILE, StoreBusy),
    ],
)
@pytest.mark.parametrize("call", ["write", "fsync", "link"])
def test_a_put_that_fails_anywhere_leaves_nothing(
    driver: FilesystemDriver, root: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, expected: type
) -> None:
    put(driver, "in.gov.x/incom/3f/other")

    def fault(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number), str(root / KEY))

    monkeypatch.setattr(os, call, fault)
    with pytest.raises(expected) as caught:
        put(driver)
    monkeypatch.undo()
    assert isinstance(caught.value.__cause__, OSError)
    assert str(root) not in str(caught.value.document("r1"))
    assert tree(root) == {"in.gov.x/incom/3f/other"}


def test_an_object_whose_folder_could_not_be_synced_is_taken_back(
    driver: FilesystemDriver, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(driver, "in.gov.x/incom/3f/other")
    real = os.fsync

    def fault(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EIO, "I/O error")
        real(fd)

    monkeypatch.setattr(os, "fsync", fault)
    with pytest.raises(StoreUnreachable):
        put(driver)
    assert tree(root) == {"in.gov.x/incom/3f/other"}


def test_a_read_that_fails_says_unreachable(driver: FilesystemDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    put(driver)

    def fault(*_: Any) -> bytes:
        raise OSError(errno.EIO, "I/O error")

    with driver.open(KEY) as stream:
        monkeypatch.setattr(filesystem.os, "pread", fault)
        with pytest.raises(StoreUnreachable) as caught:
            stream.read(10)
    assert caught.value.headers["Retry-After"]


def test_an_object_cut_short_while_it_is_read_is_damaged(driver: FilesystemDriver, root: Path) -> None:
    put(driver, KEY, b"x" * 1000)
    with driver.open(KEY) as stream:
        stream.read(400)
        os.truncate(root / KEY, 400)
        with pytest.raises(ObjectDamaged):
            stream.read(400)


def test_a_root_that_is_gone_is_not_a_missing_object(driver: FilesystemDriver, root: Path) -> None:
    put(driver)
    driver.delete(KEY)
    for folder in sorted(root.rglob("*"), reverse=True):
        folder.rmdir()
    put(driver, KEY)
    driver.delete(KEY)
    for folder in sorted(root.rglob("*"), reverse=True):
        folder.rmdir()
    root.rmdir()
    for call in (driver.open, driver.stat, lambda key: put(driver, key), lambda key: list(driver.list())):
        with pytest.raises(StoreUnreachable):
            call(KEY)
    health = driver.health()
    assert (health.read.ok, health.write.ok) == (False, False)


def test_an_unreadable_object_is_refused_not_missing(driver: FilesystemDriver, root: Path) -> None:
    put(driver)
    (root / KEY).chmod(0)
    assert as_nobody(driver, root, lambda: driver.open(KEY)) == "AccessRefused"
    (root / "in.gov.x").chmod(0)
    assert as_nobody(driver, root, lambda: driver.stat(KEY)) == "AccessRefused"
    assert as_nobody(driver, root, lambda: put(driver, KEY + "x")) == "AccessRefused"
    assert as_nobody(driver, root, lambda: list(driver.list())) == "AccessRefused"
    (root / "in.gov.x").chmod(0o700)


def test_health_tells_an_unwritable_folder(driver: FilesystemDriver, root: Path) -> None:
    def look() -> object:
        health = driver.health()
        assert (health.read.ok, health.write.ok, health.credential.ok) == (True, False, False)
        assert "Permission denied" in health.write.sentence
        assert not health.ok
        raise LookupError

    root.chmod(0o555)
    assert as_nobody(driver, root, look) == "LookupError"
    root.chmod(0o755)


def as_nobody(driver: FilesystemDriver, root: Path, call: Callable[[], object]) -> str:
    """Return the name of what a call raises in a child without root's rights."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                for folder in (root, *root.rglob("*")):
                    os.chown(folder, 65534, 65534, follow_symlinks=False)
                os.setgroups([])
                os.setresgid(65534, 65534, 65534)
                os.setresuid(65534, 65534, 65534)
            call()
            name = "nothing"
        except BaseException as error:
            name = type(error).__name__
        os.write(writer, name.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        name = pipe.read()
    os.waitpid(child, 0)
    return name


# --- speed -------------------------------------------------------------------------------------------------------------


def test_a_small_read_is_four_system_calls(root: Path, tmp_path: Path) -> None:
    script = """
import hashlib, os, sys
from io import BytesIO
from pathlib import Path
from drivers.filesystem import FilesystemDriver
from node.storage.guard import GuardedDriver
guarded = GuardedDriver(FilesystemDriver(Path(sys.argv[1])))
content = b"x" * 20480
stored = guarded.put(sys.argv[2], BytesIO(content), len(content))
os.write(1, b"begin")
guarded.read_whole(stored.key, stored.size, stored.sha256)
os.write(1, b"end")
"""
    log = tmp_path / "trace"
    command = ["strace", "-o", str(log), sys.executable, "-c", script, str(root), KEY]
    subprocess.run(command, check=True, timeout=60, capture_output=True)
    lines = log.read_text().splitlines()
    begin = next(place for place, line in enumerate(lines) if line.startswith('write(1, "begin'))
    end = next(place for place, line in enumerate(lines) if line.startswith('write(1, "end'))
    calls = [line.partition("(")[0] for line in lines[begin + 1 : end]]
    # Newer C libraries ask for the status of a descriptor with newfstatat.
    assert ["fstat" if call == "newfstatat" else call for call in calls] == ["openat2", "fstat", "pread64", "close"]
