import threading
from itertools import pairwise

import pytest

from node.contract.problems import NotFound
from node.contract.revocation import HORIZON_AGE, PageRefused, page_digest, verify_page
from node.contract.times import HOUR, SECOND, now_us


def pages(world) -> list[tuple[str, object]]:
    newest = verify_page(world.services.revocations.latest(), world.keys.public).sequence
    tokens = [world.services.revocations.page(number) for number in range(1, newest + 1)]
    return [(token, verify_page(token, world.keys.public)) for token in tokens]


def test_pages_are_numbered_linked_and_dated_in_order(either_world) -> None:
    world = either_world
    threads = [
        threading.Thread(target=world.services.revocations.keep_fresh, args=(now_us() + n * HOUR,)) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    chain = pages(world)
    assert chain[0][1].previous is None
    for (before, first), (_, second) in pairwise(chain):
        second.require_follows(first.sequence, page_digest(before), first.issued_us)


def test_a_replayed_page_and_a_gap_are_refused_by_a_reader(world) -> None:
    for hour in range(3):
        world.services.revocations.keep_fresh(now_us() + hour * HOUR)
    (first_token, first), (second_token, second), (_, third) = pages(world)
    with pytest.raises(PageRefused) as refused:
        first.require_follows(second.sequence, page_digest(second_token), second.issued_us)
    assert refused.value.reason == "rollback"
    with pytest.raises(PageRefused) as refused:
        third.require_follows(first.sequence, page_digest(first_token), first.issued_us)
    assert refused.value.reason == "gap"


def test_a_page_is_renewed_when_half_its_time_is_over(world) -> None:
    now = now_us()
    revocations = world.services.revocations
    assert revocations.keep_fresh(now) and not revocations.keep_fresh(now + 149 * SECOND)
    assert revocations.keep_fresh(now + 150 * SECOND)
    page = verify_page(revocations.latest(), world.keys.public)
    assert (page.sequence, page.next_update_us) == (2, now + 450 * SECOND)


def test_the_horizon_is_the_oldest_page_that_can_still_matter(world) -> None:
    now = now_us()
    for moment in (now, now + HOUR, now + HORIZON_AGE + HOUR // 2):
        world.services.revocations.keep_fresh(moment)
    assert [page.horizon for _, page in pages(world)] == [1, 1, 2]


def test_a_page_is_never_dated_before_the_one_it_follows(world) -> None:
    now = now_us()
    world.services.revocations.keep_fresh(now)
    with world.database.write() as session:
        world.services.revocations.publish(session, (), now - HOUR)
    assert [page.issued_us for _, page in pages(world)] == [now, now]


def test_pages_that_are_not_there(world) -> None:
    with pytest.raises(NotFound):
        world.services.revocations.latest()
    with pytest.raises(NotFound):
        world.services.revocations.page(1)
