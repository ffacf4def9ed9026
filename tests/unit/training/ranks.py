"""Run training in several processes of this machine, with kills: ``python ranks.py JSON``.

torch is imported once and the ranks are forked, which takes a tenth of the time of starting each.
The JSON: data, out, recipe (as a dict), world, kills ([[rank, step], ...], one run each); a last run goes to the end.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import torch._dynamo  # noqa: F401 - imported before the fork, not in each rank

from shrinkserve.config import parse_recipe
from shrinkserve.training import session  # noqa: F401
from shrinkserve.training.run_folder.metrics_log import MetricsLog
from shrinkserve.training.train import train
from shrinkserve.training.update.train_state import TrainState


def main() -> int:
    job = json.loads(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder, MetricsLog(Path(folder), 0, 0, enabled=True):
        pass  # imports TensorBoard as the ranks do, without TensorFlow
    for kill in job["kills"]:
        if run(job, kill) == 0:
            return 3  # the step to die at was never reached
    return run(job, None)


def run(job: dict[str, Any], kill: list[int] | None) -> int:
    """Run all ranks; return the first exit code that is not 0."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    ranks = []
    for rank in range(job["world"]):
        if pid := os.fork():
            ranks.append(pid)
            continue
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": job["world"], "LOCAL_WORLD_SIZE": job["world"]}
        os.environ |= {name: str(value) for name, value in names.items()}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os._exit(work(job, kill[1] if kill and kill[0] == rank else None))
    code = 0
    while ranks:
        pid, status = os.wait()
        ranks.remove(pid)
        if code == 0 and status != 0:
            code = 1
            for other in ranks:
                os.kill(other, signal.SIGKILL)
    return code


def work(job: dict[str, Any], die_at: int | None) -> int:
    """Run one rank, which kills itself after the update of step `die_at`."""
    update = TrainState.update

    def deadly(self: TrainState, batches: Any, step: int, rate: float) -> None:
        update(self, batches, step, rate)
        if step == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    TrainState.update = deadly  # type: ignore[method-assign]
    try:
        train(parse_recipe(job["recipe"]), Path(job["data"]), Path(job["out"]), resume=True)
    except BaseException:  # noqa: BLE001 - a forked process must not return to the code of its parent
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
