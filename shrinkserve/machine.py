"""The processor of this machine, and the cores of it that the process may use."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")


def usable_cores() -> int:
    """Return the number of cores that this process may use, at least 1.

    Respects the CPU affinity (``taskset``, ``--cpuset-cpus``) and the CPU quota of the control group (``docker run
    --cpus``, Kubernetes' ``limits.cpu``). A quota of a part of a core counts as a core.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *map(math.ceil, _quotas())]))


def cpu_name() -> str:
    """Return the processor's model, e.g. ``AMD EPYC 9R14``."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:  # not Linux
        pass
    return platform.processor() or platform.machine()


def cores_each(processes: int) -> int:
    """Return an even share of `usable_cores` for one of `processes`, at least 1."""
    return max(1, usable_cores() // max(1, processes))


def _quotas() -> Iterator[float]:
    """Return the CPU quotas, in cores, of this process's control groups and of all groups above them."""
    try:
        lines = OWN_CGROUPS.read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = CGROUPS / "cpu" if controllers else CGROUPS
        group = mount / path.lstrip("/")
        # The path may be the host's, which a container does not see; its own group is then the mount itself.
        for folder in (group, *group.parents):
            if folder.is_relative_to(mount):
                yield from _quota(folder)


def _quota(folder: Path) -> Iterator[float]:
    try:
        if (folder / "cpu.max").is_file():  # version 2: "QUOTA PERIOD" or "max PERIOD"
            quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text(encoding="utf-8").strip()
            period = (folder / "cpu.cfs_period_us").read_text(encoding="utf-8")
        if quota not in {"max", "-1"}:
            yield int(quota) / int(period)
    except (OSError, ValueError):
        return
