"""An exported graph in OpenVINO on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from shrinkserve.artifact import CARD, read_card
from shrinkserve.errors import ArtifactError
from shrinkserve.runtimes.answerer import Images, Logits

Hint = Literal["f32", "bf16"]


class OpenVinoModel:
    """An `Answerer` that is an ONNX file with the project's interface.

    Args:
        path: the .onnx file.
        threads: threads that compute one answer; None for OpenVINO's choice.
        precision: what the CPU may compute in: OpenVINO casts a float32 graph to bfloat16 itself.

    Raises:
        ArtifactError: missing, or not a model that OpenVINO can load.
    """

    def __init__(self, path: Path, threads: int | None = None, precision: Hint = "f32") -> None:
        import openvino

        if not path.is_file():
            raise ArtifactError(f"{path}: no such file", do="name a .onnx file that `export` wrote")
        properties: dict[str, str | int] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": precision,
            "ENABLE_CPU_PINNING": "NO",  # every model would pin its first thread to the same core
        }
        if threads is not None:
            properties["INFERENCE_NUM_THREADS"] = threads
        try:
            self.compiled = openvino.Core().compile_model(str(path), "CPU", properties)
        except RuntimeError as fault:
            reason = str(fault).strip().splitlines()[-1]
            raise ArtifactError(f"{path}: OpenVINO cannot load it ({reason})", do="export the model again") from fault
        self.path, self.precision = path, precision
        self.size = int(self.compiled.input("images").partial_shape[1].get_length())
        count = int(self.compiled.output("logits").partial_shape[1].get_length())
        known = read_card(path.parent).classes if (path.parent / CARD).is_file() else []
        self.classes = known if len(known) == count else [str(index) for index in range(count)]

    @property
    def name(self) -> str:
        return f"{self.path} (OpenVINO {self.precision})"

    def answer(self, images: Images) -> Logits:
        logits: Logits = self.compiled({"images": images})["logits"]
        return logits.copy()  # the buffer is the request's and is written again by the next call
