from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
from shrinkserve.garbage import collect_rarely

class Cycle:
    def __init__(self):
        self.itself = self
    def __del__(self):
        print("freed")

collect_rarely()
for _ in range({count}):
    Cycle()
print("end")
"""


@pytest.mark.parametrize(("count", "some_freed"), [(30_000, True), (1_000, False)])
def test_collect_rarely_frees_many_cycles_but_none_at_the_exit(count: int, some_freed: bool) -> None:
    code = CODE.format(count=count)
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert ("freed" in printed) == some_freed
    assert printed[-1] == "end"
