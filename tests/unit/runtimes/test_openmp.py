"""Helpers of the calling thread end, and come back when they are needed."""

from __future__ import annotations

import subprocess
import sys

import pytest

ALONE = """
import psutil, torch
from shrinkserve.runtimes.openmp import release_helpers
torch.set_num_threads(3)
count = psutil.Process().num_threads
def work():
    torch.ones(1_000_000).exp_()
    return count()
print(work()); release_helpers(); print(count()); print(work(), torch.get_num_threads())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts the threads of GNU's OpenMP")
def test_release_helpers_ends_threads_until_next_operator() -> None:
    """Runs in a separate process, in which no other threads start or end."""
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, timeout=120, check=True)
    busy, released, again, threads = (int(word) for word in done.stdout.split())
    assert (busy - released, again, threads) == (2, busy, 3)
