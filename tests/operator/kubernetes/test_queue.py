"""The work queue, in a loop whose clock runs as fast as nothing is left to do."""

import asyncio
from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from tests.operator.kubernetes.fast_loop import run

from windlass_operator.kubernetes.queue import WorkQueue

KEYS = st.sampled_from("abcd")
OPERATIONS = st.one_of(
    st.tuples(st.just("add"), KEYS),
    st.tuples(st.just("after"), KEYS, st.floats(0, 30)),
    st.tuples(st.just("backoff"), KEYS),
    st.tuples(st.just("reset"), KEYS),
    st.tuples(st.just("sleep"), st.floats(0, 20)),
)


@given(operations=st.lists(OPERATIONS, max_size=40), look_seconds=st.floats(0, 5), workers=st.integers(1, 3))
def test_no_two_workers_have_a_key_and_each_key_is_looked_at_after_it_was_added_last(
    operations: list[tuple[Any, ...]], look_seconds: float, workers: int
) -> None:
    async def main() -> None:
        queue: WorkQueue[str] = WorkQueue(longest_backoff=30)
        in_hand: Counter[str] = Counter()
        due: dict[str, float] = {}
        looked: dict[str, float] = {}
        clock = asyncio.get_running_loop().time

        async def work() -> None:
            while True:
                key = await queue.get()
                in_hand[key] += 1
                assert in_hand[key] == 1
                looked[key] = clock()
                await asyncio.sleep(look_seconds)
                in_hand[key] -= 1
                queue.done(key)

        tasks = [asyncio.create_task(work()) for _ in range(workers)]
        for name, *arguments in operations:
            match name:
                case "add":
                    queue.add(arguments[0])
                    due[arguments[0]] = clock()
                case "after":
                    queue.add_after(*arguments)
                    due[arguments[0]] = max(due.get(arguments[0], 0), clock())
                case "backoff":
                    queue.add_backoff(arguments[0])
                    due[arguments[0]] = max(due.get(arguments[0], 0), clock())
                case "reset":
                    queue.reset(arguments[0])
                case "sleep":
                    await asyncio.sleep(arguments[0])
        await asyncio.sleep(1000)
        assert queue.depth == 0
        assert looked.keys() == due.keys()
        assert all(looked[key] >= due[key] for key in due)
        for task in tasks:
            assert not task.done()
            task.cancel()

    run(main)


@given(st.lists(KEYS, max_size=20))
def test_a_key_is_handed_out_once_however_often_it_was_added_and_in_the_order_of_the_first_times(
    keys: list[str],
) -> None:
    async def main() -> None:
        queue: WorkQueue[str] = WorkQueue()
        for key in keys:
            queue.add(key)
        expected = list(dict.fromkeys(keys))
        assert queue.depth == len(expected)
        assert [await queue.get() for _ in expected] == expected
        assert queue.depth == 0

    run(main)


def test_a_key_that_is_added_while_a_worker_has_it_comes_again_when_it_is_done() -> None:
    async def main() -> None:
        queue: WorkQueue[str] = WorkQueue()
        queue.add("a")
        assert await queue.get() == "a"
        queue.add("a")
        queue.add("b")
        assert await queue.get() == "b"
        assert queue.depth == 1
        queue.done("a")
        assert await queue.get() == "a"

    run(main)


def test_of_two_times_the_earlier_counts() -> None:
    async def main() -> None:
        queue: WorkQueue[str] = WorkQueue()
        clock = asyncio.get_running_loop().time
        start = clock()
        for seconds in (30, 10, 20):
            queue.add_after("a", seconds)
        await queue.get()
        assert 10 <= clock() - start < 11
        queue.done("a")
        await asyncio.sleep(100)
        assert queue.depth == 0

    run(main)


def test_backoff_doubles_up_to_its_longest_and_begins_anew_after_a_reset() -> None:
    async def main() -> None:
        queue: WorkQueue[str] = WorkQueue(first_backoff=1, longest_backoff=60)
        clock = asyncio.get_running_loop().time

        async def waited() -> float:
            start = clock()
            queue.add_backoff("a")
            queue.done(await queue.get())
            return clock() - start

        for longest in (1, 2, 4, 8, 16, 32, 60, 60, 60):
            assert longest / 2 <= await waited() <= longest + 0.01
        queue.reset("a")
        assert await waited() <= 1.01

    run(main)


def test_a_worker_that_is_cancelled_while_it_waits_loses_no_key() -> None:
    async def main() -> None:
        queue: WorkQueue[str] = WorkQueue()
        worker = asyncio.create_task(queue.get())
        await asyncio.sleep(0)
        queue.add("a")
        worker.cancel()
        await asyncio.wait({worker})
        assert worker.cancelled()
        assert await queue.get() == "a"

    run(main)


def test_the_depth_is_a_metric() -> None:
    async def main() -> None:
        registry = CollectorRegistry()
        queue: WorkQueue[str] = WorkQueue(registry=registry)
        queue.add("a")
        queue.add("b")
        queue.add_after("c", 10)
        assert registry.get_sample_value("windlass_operator_queue_depth") == 2

    run(main)


def test_keys_that_come_last_come_after_those_that_are_added_later() -> None:
    async def main() -> None:
        queue: WorkQueue[str] = WorkQueue()
        queue.add("a", last=True)
        queue.add("b", last=True)
        queue.add("c")
        first = await queue.get()
        queue.add(first, last=True)
        queue.add("d")
        queue.done(first)
        assert [first, *[await queue.get() for _ in range(4)]] == ["c", "d", "c", "a", "b"]

    run(main)
