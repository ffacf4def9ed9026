"""NVIDIA's Triton containers: the one that we name, and the versions of the libraries in each.

Sources: Triton of each release from its release notes; DALI from `DALI_VERSION` in the branches of dali_backend;
ONNX Runtime and OpenVINO from `build.py` in the branches of server; TensorRT from its support matrix. A version that no
source gives is empty. `docs/serving.md` says how to move to another container.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Container:
    """One release of NVIDIA's container.

    Attributes:
        tag: of the image.
        triton: version of tritonserver.
        dali: version of the library in the DALI backend.
        onnxruntime: version of the library in the ONNX Runtime backend.
        openvino: version of the library in the OpenVINO backend.
        tensorrt: version of TensorRT, or its major version where only that is known.
    """

    tag: str
    triton: tuple[int, int]
    dali: str = ""
    onnxruntime: str = ""
    openvino: str = ""
    tensorrt: str = "10"


CONTAINERS = (
    Container("25.08-py3", (2, 60), dali="1.51.2", onnxruntime="1.23.0", tensorrt="10.13.2"),
    Container("26.02-py3", (2, 66), dali="1.53.0"),
    Container("26.03-py3", (2, 67), dali="2.0.0", onnxruntime="1.24.2", openvino="2026.0"),
    Container("26.04-py3", (2, 68), dali="2.0.0"),
    Container("26.05-py3", (2, 69), dali="2.1.0"),
    Container("26.06-py3", (2, 70), dali="2.1.1", onnxruntime="1.24.4"),
    Container("26.07-py3", (2, 71)),
    Container("26.08-py3", (2, 72), onnxruntime="1.28.0"),
)
"""Releases in order. From 26.03 on each loads the DALI pipelines that `export` writes."""
CURRENT = CONTAINERS[-1]
"""The release in every document and manifest. A tag, as the digest of an image depends on registry and platform."""
IMAGE = f"nvcr.io/nvidia/tritonserver:{CURRENT.tag}"
FLOOR = (2, 71)
"""Oldest Triton without published critical vulnerabilities."""
BULLETINS = "https://www.nvidia.com/en-us/security/"
MIN_DALI = "2.0"
"""DALI 1.53 cannot read a pipeline of DALI 2 (an operator was renamed), nor DALI 2 one of DALI 1.53."""


def container_of(triton: str) -> Container | None:
    """Return the container with a version of tritonserver, e.g. ``"2.71.0"``; None if it is unknown."""
    return next((one for one in CONTAINERS if triton.startswith(f"{one.triton[0]}.{one.triton[1]}.")), None)


def runs_plan(container: Container, tensorrt: str) -> bool:
    """Return True if a container can load a plan that a version of TensorRT built.

    A plan needs the version that built it. Where only the major version of the container is known, that is compared.
    """
    known = container.tensorrt
    return tensorrt == known or tensorrt.startswith(f"{known}.")


def reads_pipeline(container: Container, dali: str) -> bool:
    """Return True if a container can load a pipeline that a version of DALI serialised."""
    own = container.dali or MIN_DALI
    return (own.split(".")[0] == "1") == (dali.split(".", maxsplit=1)[0] == "1")
