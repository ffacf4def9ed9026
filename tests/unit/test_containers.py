from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from shrinkserve.containers import CONTAINERS, CURRENT, container_of, reads_pipeline, runs_plan, tags_for_plan
from shrinkserve.preprocess import Preprocess

PIPELINES = sorted({one.dali for one in CONTAINERS if one.dali.startswith("2.")})
LOADS = """
import sys
import nvidia
nvidia.__path__ = [sys.argv[3] + "/nvidia", *nvidia.__path__]
sys.path.append(sys.argv[3])
from nvidia import dali
pipeline = dali.Pipeline.deserialize(filename=sys.argv[1], batch_size=4, device_id=None)
pipeline.build()
import numpy
pipeline.feed_input("DALI_INPUT_0", [numpy.fromfile(sys.argv[2], numpy.uint8)])
print(dali.__version__, numpy.array(pipeline.run()[0].as_tensor()).shape)
"""


def test_container_of_finds_container_by_version_of_triton() -> None:
    assert container_of("2.60.0") == CONTAINERS[0]
    assert container_of("2.6.0") is None
    assert container_of("2.51.0") is None


@pytest.mark.parametrize(
    ("version", "fits"), [("10.13.2", True), ("10.13.2.6", True), ("10.13.20", False), ("11.4", False)]
)
def test_plan_needs_the_version_that_built_it(version: str, fits: bool) -> None:
    assert runs_plan(CONTAINERS[0], version) is fits


def test_constraints_pin_the_tensorrt_of_the_named_container() -> None:
    lines = (Path(__file__).parents[2] / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if line.startswith("tensorrt"))
    assert pinned == dict.fromkeys(
        [f"tensorrt{part}" for part in ("", "-cu13", "-cu13-bindings", "-cu13-libs")], "11.2.1.2"
    )
    assert runs_plan(CURRENT, pinned["tensorrt"])
    assert tags_for_plan(pinned["tensorrt"]) == [CURRENT.tag]


@pytest.mark.parametrize("version", ["10.16.1.11", "11.1.0.106", "11.4.0.106"])
def test_named_container_cannot_load_plans_of_other_versions(version: str) -> None:
    assert not runs_plan(CURRENT, version)


@pytest.mark.parametrize(
    ("tag", "fits"), [("25.08-py3", False), ("26.02-py3", False), ("26.03-py3", True), (CURRENT.tag, True)]
)
def test_pipelines_of_dali_2_need_dali_2(tag: str, fits: bool) -> None:
    (container,) = (one for one in CONTAINERS if one.tag == tag)
    assert reads_pipeline(container, "2.4.0") is fits


@pytest.mark.slow
@pytest.mark.parametrize("version", PIPELINES)
def test_dali_of_the_containers_loads_our_pipeline(tmp_path: Path, version: str) -> None:
    """Install the version from PyPI, about 500 MB. DALI 2.2 finds nvImageCodec only in its own folder."""
    pytest.importorskip("nvidia.dali", reason="DALI is not installed")
    from PIL import Image

    from shrinkserve.serving.repository.dali_pipeline import serialise_pipeline

    (tmp_path / "model.dali").write_bytes(serialise_pipeline(Preprocess(size=32), 4))
    Image.new("RGB", (60, 40), (200, 100, 50)).save(tmp_path / "image.jpg")
    command = [sys.executable, "-m", "pip", "install", "-q", "--target", str(tmp_path / "site")]
    command += [f"nvidia-dali-cuda120=={version}"]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip(f"DALI {version} cannot be installed here")
    run = subprocess.run(
        [sys.executable, "-c", LOADS, *(str(tmp_path / name) for name in ("model.dali", "image.jpg", "site"))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.stdout.strip() == f"{version} (1, 32, 32, 3)", run.stderr
