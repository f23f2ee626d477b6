"""Random bytes that are fetched ahead are given out once, whatever thread or process asks."""

import os
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from node.contract.identifiers import random_bytes, uuid7


def test_no_random_byte_is_given_out_twice() -> None:
    with ThreadPoolExecutor(4) as pool:
        pieces = list(pool.map(lambda _: random_bytes(16), range(4000)))
    assert len(set(pieces)) == 4000
    assert {len(piece) for piece in pieces} == {16}
    with pytest.raises(ValueError, match="too many"):
        random_bytes(5000)


def test_a_forked_child_gives_out_other_bytes_than_its_parent() -> None:
    random_bytes(1)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, random_bytes(16))
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 16) != random_bytes(16)
    os.close(reading)
    os.close(writing)


def test_uuids_have_their_version_and_variant() -> None:
    for text in (uuid7() for _ in range(500)):
        made = uuid.UUID(text)
        assert (made.version, made.variant, str(made)) == (7, uuid.RFC_4122, text)
