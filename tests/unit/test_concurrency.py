from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from shrinkserve.concurrency import ordered_map, ordered_tasks


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_ordered_map_keeps_the_order(workers: int, count: int) -> None:
    assert list(ordered_map(lambda item: item * item, range(count), workers)) == [item * item for item in range(count)]


def test_ordered_map_takes_few_items_ahead() -> None:
    taken = 0

    def endless() -> Iterator[int]:
        nonlocal taken
        while True:
            taken += 1
            yield taken

    results = ordered_map(abs, endless(), 3)
    for read in range(1, 20):
        next(results)
        assert taken <= read + 3
    results.close()


def test_ordered_map_raises_error_of_an_item_and_stops() -> None:
    started = []

    def work(item: int) -> int:
        started.append(item)
        return 1 // (item - 3)

    with pytest.raises(ZeroDivisionError):
        list(ordered_map(work, iter(range(1000)), 2))
    assert len(started) < 20


def test_ordered_map_runs_as_many_items_at_once_as_workers() -> None:
    together = threading.Barrier(4, timeout=20)
    assert list(ordered_map(lambda _: together.wait() >= 0, range(8), 4)) == [True] * 8


@pytest.mark.parametrize("wait", [True, False])
def test_ordered_map_waits_for_running_items_only_when_asked(wait: bool) -> None:
    release, started, ended = threading.Event(), threading.Event(), threading.Event()

    def work(item: int) -> int:
        if item == 1:
            started.set()
            release.wait(20)
            ended.set()
        return item

    results = ordered_map(work, range(10), 1, wait=wait)
    assert next(results) == 0
    assert started.wait(20)
    if wait:
        threading.Timer(0.05, release.set).start()
    results.close()
    assert ended.is_set() is wait
    release.set()


def test_ordered_map_works_after_the_main_thread_has_ended() -> None:
    program = """
import threading
from shrinkserve.concurrency import ordered_map
def late():
    threading.main_thread().join()
    print(list(ordered_map(abs, range(3), 2)))
threading.Thread(target=late).start()
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout == "[0, 1, 2]\n"


def test_ordered_tasks_keep_order_and_limit() -> None:
    running = most = 0

    async def work(item: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001 * (item % 3))
        running -= 1
        return item

    async def collect() -> list[int]:
        return [result async for result in ordered_tasks((work(item) for item in range(20)), 4)]

    assert asyncio.run(collect()) == list(range(20))
    assert most == 4


def test_ordered_tasks_leave_no_task_when_closed() -> None:
    async def abandon() -> int:
        results = ordered_tasks((asyncio.sleep(60 * item, item) for item in range(10)), 4)
        assert await anext(results) == 0
        await results.aclose()
        return len(asyncio.all_tasks())

    assert asyncio.run(abandon()) == 1
