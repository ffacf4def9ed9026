from __future__ import annotations

import threading
import time

from shrinkserve.benchmark.load.lifo_lock import LifoLock


def test_lifo_lock_admits_latest_waiting_thread_first() -> None:
    turns, order = LifoLock(), []

    def work(number: int) -> None:
        with turns:
            order.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(5)]
    with turns:
        for thread in threads:
            thread.start()
            time.sleep(0.05)  # each is waiting before the next comes
        assert order == []
    for thread in threads:
        thread.join(5)
    assert order == [4, 3, 2, 1, 0]
    with turns:  # and it can be taken again
        pass


def test_lifo_lock_admits_one_thread_at_a_time() -> None:
    turns, inside, most = LifoLock(), [0], [0]

    def work() -> None:
        for _ in range(300):
            with turns:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert most == [1]
