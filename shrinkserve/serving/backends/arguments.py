"""Arguments of a model instance, as Triton passes them to `initialize`: the model's configuration and its file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict

from shrinkserve.machine import cores_each

Tensors = Mapping[str, tuple[str, list[int]]]
"""Tensors of a model file: name -> Triton's data type and shape, -1 for any size."""


class Reshape(TypedDict):
    """Shape of a tensor inside the model, if it differs from that of the request."""

    shape: list[int]


class TensorConfig(TypedDict, total=False):
    """An input or output of a model."""

    name: str
    data_type: str
    dims: list[int]
    reshape: Reshape


class InstanceGroup(TypedDict, total=False):
    """Instances of a model of one kind: `count` on the CPU, or on each of `gpus`."""

    count: int
    gpus: list[int]


class Parameter(TypedDict):
    """A parameter of the configuration."""

    string_value: str


class GraphOptimization(TypedDict, total=False):
    """Level of ONNX Runtime's graph optimisation."""

    level: int


class Optimization(TypedDict, total=False):
    """Optimisation of a model."""

    graph: GraphOptimization


class ModelConfigJson(TypedDict, total=False):
    """The part of a model's configuration, in Triton's JSON, that the backends read."""

    max_batch_size: int
    default_model_filename: str
    input: list[TensorConfig]
    output: list[TensorConfig]
    instance_group: list[InstanceGroup]
    parameters: dict[str, Parameter]
    optimization: Optimization


@dataclass(frozen=True)
class ModelArguments:
    """Arguments of one instance of a model.

    Attributes:
        config: the model's configuration.
        file: the model file of the version that is loaded.
    """

    config: ModelConfigJson
    file: Path

    @classmethod
    def parse(cls, arguments: Mapping[str, str], default_file: str) -> ModelArguments:
        """Read Triton's dictionary; `default_file` is the file's name if the configuration has none."""
        config: ModelConfigJson = json.loads(arguments["model_config"])
        name = config.get("default_model_filename") or default_file
        return cls(config, Path(arguments["model_repository"]) / arguments["model_version"] / name)

    @property
    def batches(self) -> bool:
        """Return True if tensors have a batch dimension, which the configuration's dims leave out."""
        return int(self.config["max_batch_size"]) > 0

    @property
    def outputs(self) -> list[str]:
        """Return the names of the outputs."""
        return [tensor["name"] for tensor in self.config["output"]]

    @property
    def parameters(self) -> dict[str, str]:
        """Return the parameters of the configuration."""
        return {key: value["string_value"] for key, value in self.config.get("parameters", {}).items()}

    def whole_number(self, parameter: str, default: int) -> int:
        """Return a parameter that is a whole number of 0 or more.

        Raises:
            ValueError: it is something else.
        """
        text = self.parameters.get(parameter, str(default)).strip()
        if not text.isdecimal():
            raise ValueError(f"parameter {parameter}: expected a whole number, found {text!r}")
        return int(text)

    def threads(self, parameter: str) -> int:
        """Return the threads of this instance: the parameter or, if it is 0 or missing, its share of the cores."""
        # On a machine with GPUs Triton starts `count` instances for each, though ours all run on the CPU.
        instances = sum(int(g["count"]) * max(1, len(g.get("gpus", []))) for g in self.config["instance_group"])
        return self.whole_number(parameter, 0) or cores_each(instances)

    def check(self, kind: Literal["input", "output"], present: Tensors) -> None:
        """Compare the configuration's tensors with those of the file.

        Args:
            kind: which tensors.
            present: the tensors of the file.

        Raises:
            ValueError: they differ; names the tensor and both descriptions.
        """
        for tensor in self.config[kind]:
            name, dtype, shape = tensor["name"], tensor["data_type"], self._shape(tensor)
            if name not in present:
                raise ValueError(f"config has {kind} {name!r}, the file {', '.join(sorted(present))}")
            file_dtype, file_shape = present[name]
            fits = len(shape) == len(file_shape) and all(map(_agree, shape, file_shape))
            if dtype != file_dtype or not fits:
                raise ValueError(f"{kind} {name!r}: config says {dtype} {shape}, the file {file_dtype} {file_shape}")
        missing = set(present) - {tensor["name"] for tensor in self.config[kind]}
        if kind == "input" and missing:
            raise ValueError(f"the file needs input {', '.join(sorted(missing))}, the config does not have it")

    def _shape(self, tensor: TensorConfig) -> list[int]:
        dims = tensor["reshape"]["shape"] if "reshape" in tensor else tensor["dims"]
        return [-1] * self.batches + [int(size) for size in dims]


def _agree(size: int, other: int) -> bool:
    return size == other or -1 in (size, other)
