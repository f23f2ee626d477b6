"""What is public of the keys follows the files, and a process that holds a revoked key ends."""

import contextlib
import json
import signal
import subprocess
import sys
import textwrap

import pytest

from locker.key_publication import EVERY, KeyPublication
from locker.keys import create_keys, load_keys, save_root
from locker.roots import create_root, open_root, publish, revoke
from locker.rotation import rotate
from node.contract.key_revocation import KeyRevocationList, RevokedKey, issue_key_list
from node.contract.problems import NotFound
from node.contract.signing import LOG_GRANT, REVOCATION, TICKET
from node.contract.times import HOUR, MINUTE, now_us

ISS = "https://locker.example"


class Clock:
    def __init__(self):
        self.now = now_us()

    def __call__(self):
        return self.now


@pytest.fixture
def folder(tmp_path):
    create_keys(tmp_path / "keys")
    return tmp_path / "keys"


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def publication(folder, clock):
    return KeyPublication(folder, load_keys(folder), clock)


def kids(publication):
    return {row["kid"] for row in publication.jwks()["keys"]}


def test_a_new_key_is_public_within_seconds_and_a_process_publishes_what_it_signs_with(folder, clock, publication):
    first = load_keys(folder).signing[TICKET].kid
    assert len(kids(publication)) == 5
    second = rotate(folder, "ticket", clock.now).kid
    assert second not in kids(publication)
    clock.now += EVERY
    assert {first, second} < kids(publication)
    rotate(folder, "ticket", clock.now + 5 * MINUTE)
    clock.now += 2 * HOUR
    assert {first, second} < kids(publication), "this process still signs with the first"
    assert first not in kids(KeyPublication(folder, load_keys(folder), clock))


def test_the_descriptor_names_the_root_and_what_this_process_opens(folder, tmp_path, clock, publication):
    held = load_keys(folder).opening.kid
    assert publication.described().keys() == {"encryption_keys"}
    rotate(folder, "holder-opening", clock.now, at_once=True)
    root = create_root(folder, tmp_path / "root.pem", None, iss=ISS, now_us=clock.now)
    clock.now += EVERY
    described = publication.described()
    assert [key["kid"] for key in described["encryption_keys"]] == [held]
    assert described["root_key"] == root.jwk()


def test_a_list_is_public_without_a_restart_and_a_revoked_key_is_not(folder, tmp_path, clock, publication):
    stolen = load_keys(folder).signing[TICKET].kid
    with pytest.raises(NotFound):
        publication.revoked_keys()
    create_root(folder, tmp_path / "root.pem", None, iss=ISS, now_us=clock.now)
    root = open_root(tmp_path / "root.pem", None)
    done = revoke(folder, root, [stolen], "compromised", iss=ISS, now_us=clock.now)
    clock.now += EVERY
    assert publication.revoked_keys() == load_keys(folder).root.token
    assert stolen not in kids(publication) and done.replaced[0].kid in kids(publication)
    # A command that was killed before it put another key in the place of a revoked one.
    half = load_keys(folder).signing[LOG_GRANT].kid
    rows = (*done.listed.keys, RevokedKey(half, clock.now, "lost"))
    token = issue_key_list(KeyRevocationList(ISS, done.listed.sequence + 1, clock.now, rows), root)
    save_root(folder, root.public, token)
    clock.now += EVERY
    assert publication.revoked_keys() == token and half not in kids(publication)
    publish(folder, token, iss=ISS, now_us=clock.now)
    (folder / "root.json").write_text("{")
    clock.now += EVERY
    assert publication.revoked_keys() == token, "what was known stays"


HOLDER = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    from locker.key_publication import end_when_revoked
    from locker.keys import load_keys

    folder = Path(sys.argv[1])
    end_when_revoked(folder, load_keys(folder), 0.05)
    print("up", flush=True)
    time.sleep(60)
    """
)


@contextlib.contextmanager
def holding(folder, first=""):
    """A process that has read the keys and watches over them."""
    with subprocess.Popen(
        [sys.executable, "-c", first + HOLDER, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout.readline() == "up\n"
            yield process
        finally:
            process.kill()


def test_a_process_that_signs_with_a_revoked_key_ends(folder, tmp_path):
    create_root(folder, tmp_path / "root.pem", None, iss=ISS, now_us=now_us())
    root = open_root(tmp_path / "root.pem", None)
    with holding(folder) as process:
        other = rotate(folder, "ticket", now_us()).kid  # published, and not this process's to sign with
        revoke(folder, root, [other], "lost", iss=ISS, now_us=now_us())
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        held = load_keys(folder).signing[LOG_GRANT].kid
        revoke(folder, root, [held], "compromised", iss=ISS, now_us=now_us())
        assert process.wait(10) == -signal.SIGTERM


def test_a_process_that_does_not_heed_the_order_is_gone_all_the_same(folder, tmp_path):
    """As one whose jobs wait for nodes that do not answer."""
    create_root(folder, tmp_path / "root.pem", None, iss=ISS, now_us=now_us())
    stubborn = (
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "from locker import key_publication; key_publication.LAST_SECONDS = 0.3\n"
    )
    with holding(folder, stubborn) as process:
        held = load_keys(folder).signing[LOG_GRANT].kid
        revoke(folder, open_root(tmp_path / "root.pem", None), [held], "lost", iss=ISS, now_us=now_us())
        assert process.wait(10) == 1


def test_a_process_ends_when_the_key_of_pages_before_its_own_is_revoked(folder, tmp_path):
    """Its pages would go on from some that nobody can check any more; the next process begins the list anew, and stays."""
    create_root(folder, tmp_path / "root.pem", None, iss=ISS, now_us=now_us())
    root = open_root(tmp_path / "root.pem", None)
    before = load_keys(folder).signing
    for purpose in ("revocation", "ticket"):
        rotate(folder, purpose, now_us(), at_once=True)
    with holding(folder) as process:
        revoke(folder, root, [before[TICKET].kid], "compromised", iss=ISS, now_us=now_us())
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        revoke(folder, root, [before[REVOCATION].kid], "compromised", iss=ISS, now_us=now_us())
        assert process.wait(10) == -signal.SIGTERM
    with holding(folder) as process, pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)


def test_the_moments_of_changes_hold_no_secret(folder):
    rotate(folder, "ticket", now_us(), at_once=True)
    for row in json.loads((folder / "rotation.json").read_text())["keys"]:
        assert set(row["jwk"]) == {"kty", "crv", "x", "kid", "use", "alg", "typ"}
