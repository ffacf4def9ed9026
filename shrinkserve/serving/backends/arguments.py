"""A model instance as Triton hands it to `initialize`: its config and its file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shrinkserve.machine import cores_each

Tensors = Mapping[str, tuple[str, list[int]]]
"""Tensors that a model file has: name -> Triton's data type and shape, -1 for any size."""


@dataclass(frozen=True)
class ModelArguments:
    """One instance of a model.

    Attributes:
        config: the model's config, as Triton writes it in JSON.
        file: the model file of the version that is loaded.
    """

    config: dict[str, Any]
    file: Path

    @classmethod
    def parse(cls, arguments: Mapping[str, str], default_file: str) -> ModelArguments:
        """Read Triton's dictionary; `default_file` is the file's name when the config gives none."""
        config = json.loads(arguments["model_config"])
        name = config.get("default_model_filename") or default_file
        return cls(config, Path(arguments["model_repository"]) / arguments["model_version"] / name)

    @property
    def batches(self) -> bool:
        """Whether tensors have a batch dimension, which the config's dims leave out."""
        return int(self.config["max_batch_size"]) > 0

    @property
    def outputs(self) -> list[str]:
        return [tensor["name"] for tensor in self.config["output"]]

    @property
    def parameters(self) -> dict[str, str]:
        return {key: value["string_value"] for key, value in self.config.get("parameters", {}).items()}

    def whole_number(self, parameter: str, default: int) -> int:
        """A parameter that is a whole number of 0 or more.

        Raises:
            ValueError: it is something else.
        """
        text = self.parameters.get(parameter, str(default)).strip()
        if not text.isdecimal():
            raise ValueError(f"parameter {parameter}: expected a whole number, found {text!r}")
        return int(text)

    def threads(self, parameter: str) -> int:
        """Threads of this instance: the parameter or, when it is 0 or missing, a fair share of the cores."""
        instances = sum(int(group["count"]) for group in self.config["instance_group"])
        return self.whole_number(parameter, 0) or cores_each(instances)

    def check(self, kind: str, present: Tensors) -> None:
        """Compare the config's tensors with those that the file has.

        Args:
            kind: ``"input"`` or ``"output"``.
            present: the file's.

        Raises:
            ValueError: naming the tensor, and what either side says of it.
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

    def _shape(self, tensor: Mapping[str, Any]) -> list[int]:
        dims = tensor["reshape"]["shape"] if "reshape" in tensor else tensor["dims"]
        return [-1] * self.batches + [int(size) for size in dims]


def _agree(size: int, other: int) -> bool:
    return size == other or -1 in (size, other)
