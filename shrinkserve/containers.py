"""NVIDIA's Triton containers: the one that we name, and the versions of the libraries in each.

A version that no source gives is empty. Sources: Triton of each release from its release notes; ONNX Runtime from
`docs/introduction/compatibility.md` of github.com/triton-inference-server/server; OpenVINO from `build.py` there; DALI
from `DALI_VERSION` in the branches of dali_backend up to r26.06. TensorRT of 25.08 is from NVIDIA's frameworks support
matrix. NVIDIA's tritonserver and tensorrt images of a month have the same TensorRT; public projects that build plans in
them state its version: 10.16.0.72 in tensorrt:26.03-py3; 10.16.1.11 in 26.04 and in tritonserver:26.05-py3, "the last
TensorRT 10"; 11.0.0.114 in tensorrt:26.06-py3; 11.1.0.106 in tensorrt:26.07-py3 (the tests of
github.com/NVIDIA/TensorRT-Model-Connect) and in tritonserver:26.07-py3; 11.2.1.2 in tensorrt:26.08-py3 with DALI 2.2.0
in tritonserver:26.08-py3 (`versions.env` of github.com/olibartfast/rf-detr-cpp-inference). The TensorRT of 26.02 is
known by its major version only. `CONTRIBUTING.md` says how to add a release.
"""

from __future__ import annotations

from dataclasses import dataclass

from shrinkserve.errors import ConfigError


@dataclass(frozen=True)
class Container:
    """One release of NVIDIA's container.

    Attributes:
        tag: of the image.
        triton: version of tritonserver.
        onnxruntime: version of the library in the ONNX Runtime backend.
        dali: version of the library in the DALI backend.
        openvino: version of the library in the OpenVINO backend.
        tensorrt: version of TensorRT, or the known beginning of it.
    """

    tag: str
    triton: tuple[int, int]
    onnxruntime: str
    dali: str = ""
    openvino: str = ""
    tensorrt: str = "10"

    @property
    def opset(self) -> int:
        """Newest opset that ONNX Runtime loads there: found by loading small graphs in 1.23.2, 1.24.4 and 1.28.0."""
        minor = int(self.onnxruntime.split(".")[1] or 0)
        return next(opset for first, opset in ((28, 26), (24, 25), (0, 23)) if minor >= first)


CONTAINERS = (
    Container("25.08-py3", (2, 60), dali="1.51.2", onnxruntime="1.23.0", tensorrt="10.13.2"),
    Container("26.02-py3", (2, 66), dali="1.53.0", onnxruntime="1.24.1"),
    Container("26.03-py3", (2, 67), dali="2.0.0", onnxruntime="1.24.2", tensorrt="10.16.0.72", openvino="2026.0"),
    Container("26.04-py3", (2, 68), dali="2.0.0", onnxruntime="1.24.4", tensorrt="10.16.1.11"),
    Container("26.05-py3", (2, 69), dali="2.1.0", onnxruntime="1.24.4", tensorrt="10.16.1.11"),
    Container("26.06-py3", (2, 70), dali="2.1.1", onnxruntime="1.24.4", tensorrt="11.0.0.114"),
    Container("26.07-py3", (2, 71), onnxruntime="1.27.0", tensorrt="11.1.0.106"),
    Container("26.08-py3", (2, 72), dali="2.2.0", onnxruntime="1.28.0", tensorrt="11.2.1.2"),
)
"""Releases in order. From 26.03 on each loads the DALI pipelines that `export` writes."""
CURRENT = CONTAINERS[-1]
"""The release in every document and manifest. A tag, as the digest of an image depends on registry and platform."""
IMAGE = f"nvcr.io/nvidia/tritonserver:{CURRENT.tag}"
FLOOR = (2, 71)
"""Oldest Triton without published critical vulnerabilities."""
BULLETINS = "https://www.nvidia.com/en-us/security/"
NEWEST_OPSET = min(one.opset for one in CONTAINERS[2:])
"""Newest opset that `export` writes: every release from 26.03 on loads it."""
MIN_DALI = "2.0"
"""DALI 1.53 cannot read a pipeline of DALI 2 (an operator was renamed), nor DALI 2 one of DALI 1.53."""


def container_of(triton: str) -> Container | None:
    """Return the container with a version of tritonserver, e.g. ``"2.71.0"``; None if it is unknown."""
    return next((one for one in CONTAINERS if triton.startswith(f"{one.triton[0]}.{one.triton[1]}.")), None)


def find_container(tag: str) -> Container:
    """Return the container of a tag, e.g. ``"26.08"`` or ``"26.08-py3"``.

    Raises:
        ConfigError: the table has no such release.
    """
    found = next((one for one in CONTAINERS if tag in {one.tag, one.tag.removesuffix("-py3")}), None)
    if found is None:
        raise ConfigError("container", expected=f"one of {', '.join(one.tag for one in CONTAINERS)}", found=tag[:40])
    return found


def tags_for_plan(tensorrt: str) -> list[str]:
    """Return the tags of the containers that are known to have a version of TensorRT."""
    return [one.tag for one in CONTAINERS if "." in one.tensorrt and runs_plan(one, tensorrt)]


def runs_plan(container: Container, tensorrt: str) -> bool:
    """Return True if a container can load a plan that a version of TensorRT built.

    A plan needs the version that built it. Of the container's version the known part is compared.
    """
    known = container.tensorrt
    return tensorrt == known or tensorrt.startswith(f"{known}.")


def reads_pipeline(container: Container, dali: str) -> bool:
    """Return True if a container can load a pipeline that a version of DALI serialised."""
    own = container.dali or MIN_DALI
    return (own.split(".")[0] == "1") == (dali.split(".", maxsplit=1)[0] == "1")
