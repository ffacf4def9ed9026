"""An exported graph in ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shrinkserve.errors import ArtifactError
from shrinkserve.runtimes.predictor import Images, Logits, described

INPUT = "images"
OUTPUTS = ("logits", "probabilities")


class OnnxModel:
    """An `Answerer` that is an ONNX file.

    The graph has the project's interface: `images` uint8 [N, S, S, 3] in, `logits` and `probabilities` float32
    [N, classes] out. Class names come from the ``card.json`` beside the file, or are ``"0"``, ``"1"``, ... without one.

    Args:
        path: the .onnx file.
        threads: threads that compute one answer; None for ONNX Runtime's choice, the physical cores.
        spin: let idle threads spin between operators: faster alone, a waste beside other work.

    Raises:
        ArtifactError: missing, not a model that ONNX Runtime can load, or of another interface.
    """

    def __init__(self, path: Path, threads: int | None = None, *, spin: bool = True) -> None:
        self.path = path
        self.session = open_session(path, threads, spin=spin)
        self.size, logits = self._interface()
        self.classes, self.preprocess = described(path, logits)

    @property
    def name(self) -> str:
        return f"{self.path} (ONNX Runtime)"

    def predict(self, images: Images) -> Logits:
        return self.infer(images)["logits"]

    def infer(self, images: Images) -> dict[str, npt.NDArray[np.float32]]:
        """Both outputs by name, float32 [N, classes]."""
        return dict(zip(OUTPUTS, self.session.run(list(OUTPUTS), {INPUT: images}), strict=True))

    def _interface(self) -> tuple[int, int]:
        """Image size and number of logits, as the graph states them."""
        inputs = {value.name: (value.type, value.shape) for value in self.session.get_inputs()}
        outputs = {value.name: (value.type, value.shape) for value in self.session.get_outputs()}
        kind, shape = inputs.get(INPUT, ("", []))
        if len(inputs) != 1 or kind != "tensor(uint8)" or len(shape) != 4 or shape[1] != shape[2] or shape[3] != 3:
            raise self._other(f"one input {INPUT} uint8 [N, S, S, 3]", inputs)
        logits, probabilities = (outputs.get(name, ("", [])) for name in OUTPUTS)
        if logits[0] != "tensor(float)" or logits != probabilities or len(logits[1]) != 2:
            raise self._other("outputs logits and probabilities float32 [N, classes]", outputs)
        return int(shape[1]), int(logits[1][1])

    def _other(self, expected: str, found: Mapping[str, Any]) -> ArtifactError:
        shown = "; ".join(f"{name} {kind} {shape}" for name, (kind, shape) in found.items())
        hint = "adapt a foreign graph with `shrinkserve export --onnx FILE --preprocess SPEC --labels FILE`"
        return ArtifactError(f"{self.path}: a graph of another interface", expected=expected, found=shown, hint=hint)


def open_session(path: Path, threads: int | None = None, *, spin: bool = True, profile: Path | None = None) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU.

    Args:
        path: the .onnx file.
        threads: see `OnnxModel`.
        spin: see `OnnxModel`.
        profile: prefix of a Chrome trace to write when `end_profiling` is called.

    Raises:
        ArtifactError: missing, or not a model that ONNX Runtime can load.
    """
    import onnxruntime

    if not path.is_file():
        raise ArtifactError(f"{path}: no such file", hint="name a .onnx file that `export` wrote")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # its warnings are about its own choices; faults are raised
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    # Spinning between operators is what `spin` is about; after an answer it only takes time from others.
    setting = "session.force_spinning_stop" if spin else "session.intra_op.allow_spinning"
    options.add_session_config_entry(setting, "1" if spin else "0")
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as exc:  # ONNX Runtime raises a dozen unrelated classes, one a status code
        reason = str(exc).splitlines()[0]
        raise ArtifactError(f"{path}: ONNX Runtime cannot load it ({reason})", hint="export the model again") from exc


def check_weights(path: Path) -> None:
    """Refuse a graph that reads weights from outside its folder: ONNX Runtime 1.23 takes them from anywhere.

    Args:
        path: an .onnx file that ONNX Runtime can load.

    Raises:
        ArtifactError: a tensor whose file is not in the folder.
    """
    import onnx

    try:
        onnx.load(path)
    except onnx.checker.ValidationError as exc:
        reason = str(exc).splitlines()[0]
        raise ArtifactError(f"{path}: its weights are outside its folder ({reason})", hint="export it again") from exc
