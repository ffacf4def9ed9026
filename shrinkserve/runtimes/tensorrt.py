"""TensorRT plans on a GPU, with torch for the memory."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
from typing_extensions import NotRequired, TypedDict

from shrinkserve.artifact import CARD, INPUT, LOGITS, read_card, verify_file
from shrinkserve.engines import engines_of
from shrinkserve.errors import ArtifactError
from shrinkserve.runtimes.predictor import Images, Logits, check_images, describe_file
from shrinkserve.toml import validate


class Machine(TypedDict):
    """The first GPU of a machine; both None without one."""

    gpu: str | None
    compute_capability: str | None


class BuildInfo(Machine):
    """Library, GPU and options that a plan was built with.

    Attributes:
        library: ``"tensorrt"`` or ``"tensorrt_rtx"``.
        version: of the library.
        hardware_compatibility: see `EngineOptions.compatibility`.
        batches: smallest, optimal and largest batch of the profile.
        containers: tags of NVIDIA's containers that are known to have this version; absent in the cards of older plans.
    """

    library: str
    version: str
    hardware_compatibility: str
    batches: list[int]
    containers: NotRequired[list[str]]


def gpu() -> Machine:
    """Return the name and the compute capability of the first GPU of this machine."""
    import torch

    if not torch.cuda.is_available():
        return {"gpu": None, "compute_capability": None}
    major, minor = torch.cuda.get_device_capability()
    return {"gpu": torch.cuda.get_device_name(), "compute_capability": f"{major}.{minor}"}


def check_fit(path: Path, built: BuildInfo, version: str | None, here: Machine, rebuild: str) -> None:
    """Reject a plan that was built for another GPU or by another TensorRT.

    Args:
        path: the plan.
        built: what it was built by and for.
        version: of the library on this machine; None if it is not installed.
        here: the GPU of this machine.
        rebuild: the command that builds the plan again.

    Raises:
        ArtifactError: names what the plan needs, what this machine has, and the command.
    """
    wanted, found = built["compute_capability"], here["compute_capability"]
    capable = found is not None and (
        wanted == found or (built["hardware_compatibility"] == "ampere+" and float(found) >= 8.0)
    )
    if capable and built["version"] == version:
        return
    raise ArtifactError(
        f"{path}: the plan does not fit this machine",
        expected=f"{built['library']} {built['version']}, {_describe_gpu(built)}",
        found=f"{built['library']} {version or 'not installed'}, {_describe_gpu(here)}",
        hint=f"build it here: {rebuild}",
    )


def _describe_gpu(machine: Machine) -> str:
    if machine["compute_capability"] is None:
        return "no GPU"
    capability = f"compute capability {machine['compute_capability']}"
    return capability if machine["gpu"] is None else f"{machine['gpu']} ({capability})"


def open_plan(path: Path) -> TensorRtModel:
    """Open a plan in a version's folder, whose card records what it was built by and for.

    Raises:
        ArtifactError: the card does not list the plan, or the plan does not fit this machine.
    """
    for entry in engines_of(read_card(path.parent, verify=False)):
        if path.name in entry.plans:
            built = validate(BuildInfo, entry.plans[path.name], str(path), error=ArtifactError)
            kind = "tensorrt-int8" if entry.precision == "int8" else "tensorrt"
            builder = "" if built["library"] == "tensorrt" else f" --builder {built['library']}"
            return TensorRtModel(path, built, f"shrinkserve export {path.parent} --to {kind}{builder}")
    what = f"{path}: its card does not record what it was built by and for"
    raise ArtifactError(what, hint="name a plan in a version folder that `export` wrote")


class TensorRtModel:
    """A `Predictor` that runs a plan; batches are split to fit the plan's profile.

    Args:
        path: the plan.
        built: what it was built by and for.
        rebuild: the command that builds it again, for messages.

    Raises:
        ArtifactError: the plan is missing, damaged or does not fit this machine.
    """

    def __init__(self, path: Path, built: BuildInfo, rebuild: str = "shrinkserve export --to tensorrt") -> None:
        import torch

        if not path.is_file():
            raise ArtifactError(f"{path}: no such file", hint="name a plan that `export --to tensorrt` wrote")
        trt = _library(built["library"])
        check_fit(path, built, getattr(trt, "__version__", None), gpu(), rebuild)
        assert trt is not None
        _check_sha256(path)
        self.path, self.trt = path, trt
        self.runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        self.engine = self.runtime.deserialize_cuda_engine(path.read_bytes())
        if self.engine is None:
            raise ArtifactError(f"{path}: TensorRT cannot load the plan", hint=f"build it again: {rebuild}")
        self.context = self.engine.create_execution_context()
        self.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        shape = tuple(self.engine.get_tensor_shape(INPUT))
        self.size, self.max_batch = int(shape[1]), int(self.engine.get_tensor_profile_shape(INPUT, 0)[2][0])
        count = int(tuple(self.engine.get_tensor_shape(LOGITS))[1])
        self.classes, self.preprocess = describe_file(path, count)

    @property
    def name(self) -> str:
        return f"{self.path} (TensorRT {self.trt.__version__})"

    def __repr__(self) -> str:
        return f"TensorRtModel({str(self.path)!r}, size={self.size}, classes={len(self.classes)})"

    def predict(self, images: Images) -> Logits:
        check_images(images, self.size)
        cut = range(0, len(images), self.max_batch)
        return np.concatenate([self._predict(images[start : start + self.max_batch]) for start in cut])

    def _predict(self, images: Images) -> Logits:
        import torch

        tensors = {INPUT: torch.from_numpy(np.ascontiguousarray(images)).cuda()}
        self.context.set_input_shape(INPUT, tuple(images.shape))
        for index in range(self.engine.num_io_tensors):
            name = self.engine.get_tensor_name(index)
            if name != INPUT:
                shape = tuple(self.context.get_tensor_shape(name))
                tensors[name] = torch.empty(shape, dtype=torch.float32, device="cuda")
        for name, tensor in tensors.items():
            self.context.set_tensor_address(name, tensor.data_ptr())
        self.stream.wait_stream(torch.cuda.current_stream())  # wait for the copy of the images
        if not self.context.execute_async_v3(self.stream.cuda_stream):
            raise ArtifactError(f"{self.path}: TensorRT could not run the plan", hint="build it again on this machine")
        self.stream.synchronize()
        logits: Logits = tensors[LOGITS].cpu().numpy()
        return logits


def _check_sha256(path: Path) -> None:
    """Compare a plan with the card in its folder before TensorRT loads it: a plan can contain code."""
    if (path.parent / CARD).is_file():
        expected = read_card(path.parent, verify=False).files.get(path.name)
        if expected is not None:
            verify_file(path, expected)


def _library(name: str) -> ModuleType | None:
    for module in (name, f"{name}_bindings"):
        try:
            return import_module(module)
        except (ImportError, OSError):  # a package without its libraries raises either
            continue
    return None
