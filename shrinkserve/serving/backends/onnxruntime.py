"""Triton's backend `onnxruntime` in Python: run on a CPU what NVIDIA's C++ backend of that name runs.

It reads the same configuration: the parameters of github.com/triton-inference-server/onnxruntime_backend (README,
"Model Config Options"), and any key of ONNX Runtime's session options (`session.*`). Three defaults differ, because
several instances, each a process, share the machine: they share the cores, threads hardly spin while they wait, and
memory is not planned for each batch size. With the plans of all sizes up to 32 an instance of ShrinkCNN-A took 860 MiB
instead of 500, and was not faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import onnxruntime as ort

from shrinkserve.serving.backends.arguments import ModelArguments, Tensors
from shrinkserve.serving.backends.batching import Array, Inputs, TritonRequest, TritonResponse, join_rows, respond
from shrinkserve.serving.backends.metrics import ExecutionTimes

TYPES = {
    "tensor(bool)": "TYPE_BOOL",
    **{f"tensor({sign.lower()}int{bits})": f"TYPE_{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)},
    "tensor(float16)": "TYPE_FP16",
    "tensor(float)": "TYPE_FP32",
    "tensor(double)": "TYPE_FP64",
}
LEVELS = {
    -1: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    1: ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    2: ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
"""`optimization.graph.level` as NVIDIA's backend reads it; the default is all optimisations."""
BRIEF_SPINS = {
    "session.intra_op.allow_spinning": "1",
    "session.intra_op.spin_duration_us": "30",
    "session.force_spinning_stop": "1",
}
"""Threads spin for at most 30 us for the next operator of a run, and never between runs.

On two cores this made a run of ShrinkCNN-A a third faster, with a fifth less CPU time, than threads that sleep at once
(`bench/serving.py`). ONNX Runtime's own default, milliseconds of spinning, slows down all other processes.
"""
NO_SPINS = {"session.intra_op.allow_spinning": "0"}
SPINS_BRIEFLY_SINCE = (1, 26)
"""First version of ONNX Runtime with `spin_duration_us`; an older one would spin for milliseconds."""
SHRINKAGE = "memory.enable_memory_arena_shrinkage"


class SessionTensor(Protocol):
    """An input or output of a session."""

    name: str
    type: str
    shape: Sequence[int | str | None]


class TritonPythonModel:
    """One instance of an ONNX model."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the session. Triton shows an exception as the reason why the model cannot be loaded."""
        self._times = ExecutionTimes(args)
        self._arguments = ModelArguments.parse(args, "model.onnx")
        self._session = ort.InferenceSession(
            str(self._arguments.file), session_options(self._arguments), providers=["CPUExecutionProvider"]
        )
        self._arguments.check("input", _tensors(self._session.get_inputs()))
        self._arguments.check("output", _tensors(self._session.get_outputs()))
        self._run_options = ort.RunOptions()
        if SHRINKAGE in self._arguments.parameters:
            self._run_options.add_run_config_entry(SHRINKAGE, self._arguments.parameters[SHRINKAGE])

    def execute(self, requests: Sequence[TritonRequest]) -> list[TritonResponse]:
        """Respond to the requests of one batch."""
        return respond(requests, self._arguments, self._infer, self._times)

    def _infer(self, requests: Sequence[Inputs], names: Sequence[str]) -> Sequence[Array]:
        return self._session.run(names, join_rows(requests), self._run_options)  # type: ignore[no-any-return]


def session_options(arguments: ModelArguments) -> ort.SessionOptions:
    """Return the session's options for the model's configuration.

    Raises:
        ValueError: a parameter that is not a number, or an unknown optimisation level.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = arguments.threads("intra_op_thread_count")
    options.inter_op_num_threads = arguments.whole_number("inter_op_thread_count", 0)
    if arguments.whole_number("execution_mode", 0):
        options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    options.enable_cpu_mem_arena = bool(arguments.whole_number("enable_mem_arena", 1))
    options.enable_mem_pattern = bool(arguments.whole_number("enable_mem_pattern", 0))
    level = arguments.config.get("optimization", {}).get("graph", {}).get("level", 0)
    if level:
        if level not in LEVELS:
            raise ValueError(f"optimization.graph.level: expected -1, 1 or 2, found {level}")
        options.graph_optimization_level = LEVELS[level]
    version = tuple(int(part) for part in ort.__version__.split(".")[:2])
    entries = BRIEF_SPINS if version >= SPINS_BRIEFLY_SINCE else NO_SPINS
    entries = entries | {"session.inter_op.allow_spinning": "0"}
    entries |= {key: value for key, value in arguments.parameters.items() if key.startswith("session.")}
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    return options


def _tensors(nodes: Sequence[SessionTensor]) -> Tensors:
    return {
        node.name: (TYPES.get(node.type, node.type), [size if isinstance(size, int) else -1 for size in node.shape])
        for node in nodes
    }
