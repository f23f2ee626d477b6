"""The locker's keys are made once, whoever else makes them at the same time."""

import time
from concurrent.futures import ThreadPoolExecutor

from locker import keys
from locker.keys import create_keys


def test_two_that_make_keys_at_once_have_the_same(tmp_path, monkeypatch):
    def slowly(path, data, write=keys.write_private):
        time.sleep(0.01)
        write(path, data)

    monkeypatch.setattr(keys, "write_private", slowly)
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: create_keys(tmp_path / "keys"), range(4)))
    assert len({frozenset(key.kid for key in row.signing.values()) for row in made}) == 1
    assert len({row.reference.secret for row in made}) == 1
