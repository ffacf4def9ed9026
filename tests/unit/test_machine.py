from __future__ import annotations

import os
from pathlib import Path

import pytest

from shrinkserve import machine


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Control groups of a machine with 16 cores: a folder to write them into."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    monkeypatch.setattr(machine, "OWN_CGROUPS", tmp_path / "self")
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_usable_cores_counts_all_without_control_groups(groups: Path) -> None:
    assert not list(groups.iterdir())
    assert machine.usable_cores() == 16


@pytest.mark.parametrize(
    ("quota", "cores"), [("400000 100000", 4), ("150000 100000", 2), ("50000 100000", 1), ("max 100000", 16)]
)
def test_usable_cores_respects_quota_of_cgroup_v2(groups: Path, quota: str, cores: int) -> None:
    write(groups / "self", "0::/\n")
    write(groups / "cpu.max", quota)
    assert machine.usable_cores() == cores


def test_usable_cores_respects_quota_of_parent_group(groups: Path) -> None:
    write(groups / "self", "0::/pods/one\n")
    write(groups / "pods/cpu.max", "300000 100000")
    write(groups / "pods/one/cpu.max", "max 100000")
    assert machine.usable_cores() == 3


def test_usable_cores_respects_quota_when_group_path_is_of_host(groups: Path) -> None:
    write(groups / "self", "0::/docker/0123\n")
    write(groups / "cpu.max", "200000 100000")
    assert machine.usable_cores() == 2


@pytest.mark.parametrize(("quota", "cores"), [("250000", 3), ("-1", 16)])
def test_usable_cores_respects_quota_of_cgroup_v1(groups: Path, quota: str, cores: int) -> None:
    write(groups / "self", "5:memory:/\n3:cpuacct,cpu:/job\n")
    write(groups / "cpu/job/cpu.cfs_quota_us", quota + "\n")
    write(groups / "cpu/job/cpu.cfs_period_us", "100000\n")
    assert machine.usable_cores() == cores


def test_usable_cores_ignores_unreadable_quota(groups: Path) -> None:
    write(groups / "self", "0::/\n")
    write(groups / "cpu.max", "nonsense")
    assert machine.usable_cores() == 16


@pytest.mark.parametrize(("processes", "share"), [(1, 16), (5, 3), (16, 1), (99, 1), (0, 16)])
def test_cores_each_divides_evenly(groups: Path, processes: int, share: int) -> None:
    assert not list(groups.iterdir())
    assert machine.cores_each(processes) == share
