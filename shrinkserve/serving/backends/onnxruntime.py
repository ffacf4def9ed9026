"""Triton's backend `onnxruntime` in Python: serves on a CPU what NVIDIA's C++ backend of that name serves.

It reads the same config: the parameters of github.com/triton-inference-server/onnxruntime_backend (README, "Model
Config Options"), plus any key of ONNX Runtime's session config (`session.*`). Two defaults differ, because several
one-process instances share the machine: threads do not spin while they wait, and they share out the cores.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import onnxruntime as ort

from shrinkserve.serving.backends.batching import Array, ModelArguments, answer

TYPES = {
    "TYPE_BOOL": "tensor(bool)",
    **{f"TYPE_{sign}INT{bits}": f"tensor({sign.lower()}int{bits})" for sign in ("", "U") for bits in (8, 16, 32, 64)},
    "TYPE_FP16": "tensor(float16)",
    "TYPE_FP32": "tensor(float)",
    "TYPE_FP64": "tensor(double)",
}
LEVELS = {
    -1: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    1: ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    2: ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
"""`optimization.graph.level` as NVIDIA's backend reads it; without one, all optimisations."""


class TritonPythonModel:
    """One instance of an ONNX model."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the session; Triton shows what is raised here as the reason why the model cannot be loaded."""
        self._arguments = ModelArguments.parse(args, "model.onnx")
        self._session = ort.InferenceSession(
            str(self._arguments.file), session_options(self._arguments), providers=["CPUExecutionProvider"]
        )
        check_tensors(self._arguments, self._session)
        self._run_options = ort.RunOptions()
        shrinkage = self._arguments.parameters.get("memory.enable_memory_arena_shrinkage")
        if shrinkage:
            self._run_options.add_run_config_entry("memory.enable_memory_arena_shrinkage", shrinkage)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer the requests that Triton put into one batch."""
        return answer(requests, self._arguments, self._infer)

    def _infer(self, inputs: dict[str, Array], names: list[str]) -> list[Array]:
        return self._session.run(names, inputs, self._run_options)  # type: ignore[no-any-return]


def session_options(arguments: ModelArguments) -> ort.SessionOptions:
    """The session's options as the model's config asks for them.

    Raises:
        ValueError: a parameter that is no number, or an optimisation level that there is not.
    """
    options = ort.SessionOptions()
    threads = arguments.whole_number("intra_op_thread_count", 0)
    cores = len(os.sched_getaffinity(0))
    options.intra_op_num_threads = threads or max(1, cores // arguments.instances)
    options.inter_op_num_threads = arguments.whole_number("inter_op_thread_count", 0)
    if arguments.whole_number("execution_mode", 0):
        options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    options.enable_cpu_mem_arena = bool(arguments.whole_number("enable_mem_arena", 1))
    options.enable_mem_pattern = bool(arguments.whole_number("enable_mem_pattern", 1))
    level = arguments.config.get("optimization", {}).get("graph", {}).get("level", 0)
    if level:
        if level not in LEVELS:
            raise ValueError(f"optimization.graph.level: expected -1, 1 or 2, found {level}")
        options.graph_optimization_level = LEVELS[level]
    entries = {"session.intra_op.allow_spinning": "0", "session.inter_op.allow_spinning": "0"}
    entries |= {key: value for key, value in arguments.parameters.items() if key.startswith("session.")}
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    return options


def check_tensors(arguments: ModelArguments, session: ort.InferenceSession) -> None:
    """Compare the config's tensors with those of the file.

    Raises:
        ValueError: naming the tensor, and what either side says of it.
    """
    for kind, nodes in (("input", session.get_inputs()), ("output", session.get_outputs())):
        present = {node.name: node for node in nodes}
        for tensor in arguments.config[kind]:
            node = present.get(tensor["name"])
            if node is None:
                raise ValueError(f"config has {kind} {tensor['name']!r}, the file {', '.join(sorted(present))}")
            dtype = TYPES.get(tensor["data_type"], "a type that this backend does not have")
            shape = arguments.shape(tensor)
            found = [size if isinstance(size, int) else -1 for size in node.shape]
            fits = len(shape) == len(found) and all(map(_agree, shape, found))
            if dtype != node.type or not fits:
                raise ValueError(
                    f"{kind} {tensor['name']!r}: config says {tensor['data_type']} ({dtype}) {shape}, "
                    f"the file {node.type} {found}"
                )
    missing = {node.name for node in session.get_inputs()} - set(arguments.inputs)
    if missing:
        raise ValueError(f"the file needs input {', '.join(sorted(missing))}, the config does not have it")


def _agree(size: int, other: int) -> bool:
    return size == other or -1 in (size, other)
