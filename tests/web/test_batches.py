"""BatchWorker: one thread, whole batches, one wake-up, nothing lost."""

import asyncio
import queue
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from node.contract.problems import ServiceUnavailable
from node.web.batches import BatchWorker


class Recorder:
    """Processes numbers by doubling them; can be held, to let a crowd gather."""

    def __init__(self):
        self.batches = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def __call__(self, items):
        self.entered.set()
        self.gate.wait(5)
        self.batches.append(list(items))
        return [ValueError("odd one") if item == 13 else item * 2 for item in items]


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
def worker(recorder):
    worker = BatchWorker("doubler", recorder, limit=8, queue_size=20)
    worker.start()
    yield worker
    recorder.gate.set()
    worker.stop(5)


def hold(worker, recorder):
    """Have the thread busy with one item, so that what comes next waits together."""
    recorder.gate.clear()
    recorder.entered.clear()
    worker.post(0)
    assert recorder.entered.wait(5)


async def test_a_lone_item_does_not_wait_for_company(worker):
    await worker.submit(1)
    began = time.perf_counter()
    for number in range(50):
        assert await worker.submit(number if number != 13 else 0) is not None
    assert (time.perf_counter() - began) / 50 < 0.02


async def test_a_crowd_is_one_batch_in_order_and_one_wake_up_of_the_loop(worker, recorder, monkeypatch):
    loop = asyncio.get_running_loop()
    wake_ups = []
    original = loop.call_soon_threadsafe
    monkeypatch.setattr(loop, "call_soon_threadsafe", lambda *a: (wake_ups.append(1), original(*a))[1])
    hold(worker, recorder)
    crowd = [asyncio.create_task(worker.submit(number)) for number in range(1, 7)]
    await asyncio.sleep(0.02)
    recorder.gate.set()
    assert await asyncio.gather(*crowd) == [2, 4, 6, 8, 10, 12]
    assert recorder.batches == [[0], [1, 2, 3, 4, 5, 6]]
    assert len(wake_ups) == 1


async def test_a_batch_is_never_larger_than_the_limit(worker, recorder):
    hold(worker, recorder)
    crowd = [asyncio.create_task(worker.submit(number)) for number in range(20, 38)]
    await asyncio.sleep(0.02)
    recorder.gate.set()
    await asyncio.gather(*crowd)
    assert [len(batch) for batch in recorder.batches] == [1, 8, 8, 2]
    assert [item for batch in recorder.batches[1:] for item in batch] == list(range(20, 38))


async def test_an_error_for_one_item_is_that_item_s_alone(worker, recorder):
    hold(worker, recorder)
    crowd = [asyncio.create_task(worker.submit(number)) for number in (12, 13, 14)]
    await asyncio.sleep(0.02)
    recorder.gate.set()
    results = await asyncio.gather(*crowd, return_exceptions=True)
    assert results[0] == 24 and results[2] == 28
    assert isinstance(results[1], ValueError)


@pytest.mark.parametrize("broken", [lambda items: 1 / 0, lambda items: [1, 2, 3, 4], lambda items: [StopIteration()]])
async def test_a_batch_that_fails_fails_every_item_and_the_thread_goes_on(broken):
    worker = BatchWorker("broken", broken)
    worker.start()
    for _ in range(2):
        with pytest.raises((ZeroDivisionError, RuntimeError)):
            await asyncio.wait_for(worker.submit(1), 2)
    assert worker.stop(2)


async def test_a_full_queue_refuses_at_once(worker, recorder):
    hold(worker, recorder)
    crowd = [asyncio.create_task(worker.submit(number)) for number in range(20, 40)]
    await asyncio.sleep(0.02)
    with pytest.raises(ServiceUnavailable) as refused:
        await worker.submit(99)
    assert refused.value.reason == "queue-full"
    recorder.gate.set()
    await asyncio.gather(*crowd)


async def test_an_item_whose_caller_left_is_processed_all_the_same(worker, recorder):
    hold(worker, recorder)
    task = asyncio.create_task(worker.submit(5))
    await asyncio.sleep(0.02)
    task.cancel()
    recorder.gate.set()
    await worker.submit(6)
    assert 5 in [item for batch in recorder.batches for item in batch]


def test_call_from_a_thread_and_its_time_out(worker, recorder):
    assert worker.call(21, 2) == 42
    with pytest.raises(ValueError, match="odd"):
        worker.call(13, 2)
    hold(worker, recorder)
    with pytest.raises(ServiceUnavailable) as late:
        worker.call(1, 0.05)
    assert late.value.reason == "batch-timeout"


def test_stop_drains_what_was_posted_and_then_refuses(worker, recorder):
    hold(worker, recorder)
    for number in range(1, 16):
        worker.post(number)
    stopper = threading.Thread(target=worker.stop, args=(5,))
    stopper.start()
    time.sleep(0.02)
    with pytest.raises(ServiceUnavailable):
        worker.post(99)
    recorder.gate.set()
    stopper.join(5)
    assert [item for batch in recorder.batches for item in batch] == list(range(16))
    assert worker.stop(0)


def test_stop_says_when_the_time_was_too_short(worker, recorder):
    hold(worker, recorder)
    assert not worker.stop(0.05)


def test_setup_and_teardown_run_in_the_thread_and_a_failed_setup_stops_the_start():
    threads = []
    worker = BatchWorker(
        "owner",
        lambda items: [threading.current_thread().name for _ in items],
        setup=lambda: threads.append(threading.current_thread().name),
        teardown=lambda: threads.append(threading.current_thread().name),
    )
    worker.start()
    assert worker.call(1, 2) == "owner"
    worker.stop(2)
    assert threads == ["owner", "owner"]

    def fail():
        raise OSError("no database")

    with pytest.raises(OSError, match="no database"):
        BatchWorker("failing", lambda items: items, setup=fail).start()


async def test_a_loop_that_closed_does_not_end_the_thread(recorder):
    worker = BatchWorker("doubler", recorder)
    worker.start()
    recorder.gate.clear()

    async def leave():
        task = asyncio.ensure_future(worker.submit(1))
        await asyncio.sleep(0.02)
        task.cancel()

    def other_loop():
        loop = asyncio.new_event_loop()
        loop.run_until_complete(leave())
        loop.close()

    await asyncio.to_thread(other_loop)
    recorder.gate.set()
    assert await worker.submit(4) == 8
    assert worker.stop(2)


async def test_thousands_a_second(worker):
    count = 4000
    began = time.perf_counter()

    async def client():
        for _ in range(count // 16):
            await worker.submit(1)

    await asyncio.gather(*(client() for _ in range(16)))
    assert time.perf_counter() - began < 2


async def test_a_patient_item_comes_along_with_the_next_one(worker, recorder):
    worker.post_within(50, 30.0)
    assert await worker.submit(1) == 2
    assert recorder.batches == [[50, 1]]


async def test_a_patient_item_without_company_is_processed_in_time(worker, recorder):
    worker.post_within(50, 0.05)
    worker.post_within(51, 0.05)
    await asyncio.sleep(0.02)
    assert recorder.batches == []
    assert worker.waiting() == 2
    await asyncio.sleep(0.15)
    assert recorder.batches == [[50, 51]]


async def test_patient_items_are_not_kept_back_by_a_crowd(worker, recorder):
    hold(worker, recorder)
    crowd = [asyncio.create_task(worker.submit(number)) for number in range(20, 38)]
    await asyncio.sleep(0.02)
    worker.post_within(50, 30.0)
    recorder.gate.set()
    await asyncio.gather(*crowd)
    assert recorder.batches[-1] == [36, 37, 50]


async def test_the_end_comes_after_the_patient_items(worker, recorder):
    for number in range(50, 67):
        worker.post_within(number, 30.0)
    assert await asyncio.to_thread(worker.stop, 5)
    assert sorted(item for batch in recorder.batches for item in batch) == list(range(50, 67))
    with pytest.raises(ServiceUnavailable):
        worker.post_within(1, 30.0)


async def test_patient_items_count_for_a_full_queue(worker):
    for number in range(20):
        worker.post_within(number + 100, 30.0)
    with pytest.raises(ServiceUnavailable) as refused:
        worker.post_within(1, 30.0)
    assert refused.value.reason == "queue-full"


async def test_signals_do_not_pile_up_while_the_thread_never_rests(worker, recorder):
    hold(worker, recorder)
    crowd = []
    for number in range(20, 32):
        crowd.append(asyncio.create_task(worker.submit(number)))
        await asyncio.sleep(0.001)  # a turn of the loop each
    assert worker.waiting() == 12
    assert worker._signal.qsize() <= 1
    recorder.gate.set()
    assert await asyncio.gather(*crowd) == [number * 2 for number in range(20, 32)]


async def test_a_patient_item_of_a_loop_that_closed_keeps_no_others_waiting(worker, recorder):
    async def post_and_leave():
        worker.post_within(50, 30.0)

    await asyncio.to_thread(asyncio.run, post_and_leave())
    worker.post_within(51, 0.02)
    await asyncio.sleep(0.2)
    assert recorder.batches == [[50, 51]]


class SlowSignal(queue.SimpleQueue):
    """Lets the thread that was woken run before whoever woke it goes on."""

    def put(self, item):
        super().put(item)
        time.sleep(0.001)


@pytest.mark.parametrize("callers", [1, 4])
def test_no_wake_up_is_lost_between_threads(recorder, monkeypatch, callers):
    """Each caller waits for its own item, so one that the thread is not woken for shows as a timeout."""
    monkeypatch.setattr("node.web.batches.queue.SimpleQueue", SlowSignal)
    worker = BatchWorker("doubler", recorder)
    worker.start()

    def caller():
        return [worker.call(number, 2) for number in range(20, 120)]

    with ThreadPoolExecutor(callers) as pool:
        done = [pool.submit(caller) for _ in range(callers)]
    assert worker.stop(2)
    assert all(future.result() == [number * 2 for number in range(20, 120)] for future in done)
