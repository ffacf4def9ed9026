"""A TensorRT plan on a GPU, with torch for its memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shrinkserve.artifact import CARD, read_card, verify_file
from shrinkserve.errors import ArtifactError
from shrinkserve.runtimes.predictor import Images, Logits, described

INPUT, LOGITS = "images", "logits"
BUILT = "built"
"""Where the record of an engine in a card keeps what each of its plans was built by and for, by file name."""


def gpu() -> dict[str, str | None]:
    """Name and compute capability of the first GPU here; None each where there is none."""
    import torch

    if not torch.cuda.is_available():
        return {"gpu": None, "compute_capability": None}
    major, minor = torch.cuda.get_device_capability()
    return {"gpu": torch.cuda.get_device_name(), "compute_capability": f"{major}.{minor}"}


def check_fit(path: Path, built: Mapping[str, Any], here: Mapping[str, Any], rebuild: str) -> None:
    """Refuse a plan that was built for another GPU or by another TensorRT.

    Args:
        path: the plan.
        built: `library`, `version`, `compute_capability`, `gpu` and `hardware_compatibility`, as its card has them.
        here: `version`, `compute_capability` and `gpu` of this machine.
        rebuild: the command that builds it again.

    Raises:
        ArtifactError: what was built, what is here, and the command.
    """
    wanted, found = built["compute_capability"], here["compute_capability"]
    capable = found is not None and (
        wanted == found or (built["hardware_compatibility"] == "ampere+" and float(found) >= 8.0)
    )
    if capable and built["version"] == here["version"]:
        return
    raise ArtifactError(
        f"{path}: the plan does not fit this machine",
        expected=f"{built['library']} {built['version']}, {_described(built)}",
        found=f"{built['library']} {here['version'] or 'not installed'}, {_described(here)}",
        hint=f"build it here: {rebuild}",
    )


def _described(machine: Mapping[str, Any]) -> str:
    if machine["compute_capability"] is None:
        return "no GPU"
    capability = f"compute capability {machine['compute_capability']}"
    return capability if machine["gpu"] is None else f"{machine['gpu']} ({capability})"


def open_plan(path: Path) -> TensorRtModel:
    """A plan of a version's folder, whose card says what it was built by and for.

    Raises:
        ArtifactError: no card there that knows it, or built for something else than what is here; with the command
            that builds it again.
    """
    engines = read_card(path.parent, verify=False).details.get("engines", {})
    for engine in engines.values():
        built = engine["record"].get(BUILT, {}).get(path.name)
        if built is not None:
            kind = "tensorrt-int8" if engine["precision"] == "int8" else "tensorrt"
            builder = "" if built["library"] == "tensorrt" else f" --builder {built['library']}"
            return TensorRtModel(path, built, f"shrinkserve export {path.parent} --to {kind}{builder}")
    what = f"{path}: its card does not say what it was built by and for"
    raise ArtifactError(what, hint="name a plan in the version folder that `export` wrote")


class TensorRtModel:
    """An `Answerer` that is a plan; the batch is cut to what the plan's profile takes.

    Args:
        path: the plan.
        built: what its card says it was built by and for.
        rebuild: the command that builds it again, for the message.

    Raises:
        ArtifactError: missing, damaged, or built for something else than what is here.
    """

    def __init__(self, path: Path, built: Mapping[str, Any], rebuild: str = "shrinkserve export --to tensorrt") -> None:
        import torch

        if not path.is_file():
            raise ArtifactError(f"{path}: no such file", hint="name a plan that `export --to tensorrt` wrote")
        trt = _library(str(built["library"]))
        check_fit(path, built, {"version": getattr(trt, "__version__", None), **gpu()}, rebuild)
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
        self.classes, self.preprocess = described(path, count)

    @property
    def name(self) -> str:
        return f"{self.path} (TensorRT {self.trt.__version__})"

    def predict(self, images: Images) -> Logits:
        import numpy as np

        cut = range(0, len(images), self.max_batch)
        return np.concatenate([self._answer(images[start : start + self.max_batch]) for start in cut])

    def _answer(self, images: Images) -> Logits:
        import numpy as np
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
        self.stream.wait_stream(torch.cuda.current_stream())  # the copy of the images came before
        if not self.context.execute_async_v3(self.stream.cuda_stream):
            raise ArtifactError(f"{self.path}: TensorRT could not run the plan", hint="build it again on this machine")
        self.stream.synchronize()
        logits: Logits = tensors[LOGITS].cpu().numpy()
        return logits


def _check_sha256(path: Path) -> None:
    """Compare a plan with the card beside it, if there is one, before TensorRT loads it: a plan can contain code."""
    if (path.parent / CARD).is_file():
        expected = read_card(path.parent, verify=False).files.get(path.name)
        if expected is not None:
            verify_file(path, expected)


def _library(name: str) -> Any:
    import importlib

    for module in (name, f"{name}_bindings"):
        try:
            return importlib.import_module(module)
        except (ImportError, OSError):
            continue
    return None
