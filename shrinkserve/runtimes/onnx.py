"""ONNX graphs in ONNX Runtime on the CPU."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from shrinkserve.artifact import INPUT, LOGITS, PROBABILITIES
from shrinkserve.errors import ArtifactError
from shrinkserve.runtimes.external_data import check_external_data
from shrinkserve.runtimes.predictor import Images, Logits, check_images, describe_file

if TYPE_CHECKING:
    import onnxruntime

OUTPUTS = (LOGITS, PROBABILITIES)
Arrays = dict[str, npt.NDArray[np.float32]]


class OnnxModel:
    """A `Predictor` that runs an exported ONNX file.

    The graph has the project's interface: `images` uint8 [N, S, S, 3] in, `logits` and `probabilities` float32
    [N, classes] out. Class names come from the ``card.json`` in the same folder or from the file's metadata.

    Args:
        path: the .onnx file.
        threads: threads that compute one prediction; None lets ONNX Runtime choose: one for each physical core.
        spin: let idle threads spin between operators. This is faster alone, and takes time from other programs.
        optimise: apply ONNX Runtime's graph optimisations.

    Raises:
        ArtifactError: the file is missing, ONNX Runtime cannot load it, or it has another interface.
    """

    def __init__(self, path: Path, threads: int | None = None, *, spin: bool = True, optimise: bool = True) -> None:
        self.path = path
        self.session = open_session(path, threads, spin=spin, optimise=optimise)
        self.size, logits = self._interface()
        properties: dict[str, str] = self.session.get_modelmeta().custom_metadata_map
        self.classes, self.preprocess = describe_file(path, logits, properties)

    @property
    def name(self) -> str:
        return f"{self.path} (ONNX Runtime)"

    def __repr__(self) -> str:
        return f"OnnxModel({str(self.path)!r}, size={self.size}, classes={len(self.classes)})"

    def predict(self, images: Images) -> Logits:
        return self.infer(images)[LOGITS]

    def infer(self, images: Images) -> Arrays:
        """Return both outputs by name, float32 [N, classes].

        Raises:
            ArtifactError: ONNX Runtime cannot run this batch.
            DataError: the images have another type or shape.
        """
        check_images(images, self.size)
        return run_session(self.session, {INPUT: images}, self.path, OUTPUTS)

    def _interface(self) -> tuple[int, int]:
        """Return the image size and the number of logits from the graph's signature."""
        inputs = {value.name: (value.type, value.shape) for value in self.session.get_inputs()}
        outputs = {value.name: (value.type, value.shape) for value in self.session.get_outputs()}
        kind, shape = inputs.get(INPUT, ("", []))
        takes_images = kind == "tensor(uint8)" and len(shape) == 4 and shape[1] == shape[2] and shape[3] in {1, 3}
        if len(inputs) != 1 or not takes_images:
            raise self._other(f"one input {INPUT} uint8 [N, S, S, 3 or 1]", inputs)
        logits, probabilities = (outputs.get(name, ("", [])) for name in OUTPUTS)
        if logits[0] != "tensor(float)" or logits != probabilities or len(logits[1]) != 2:
            raise self._other("outputs logits and probabilities float32 [N, classes]", outputs)
        if not isinstance(shape[1], int) or not isinstance(logits[1][1], int):
            raise self._other("a fixed image size and number of classes", {**inputs, **outputs})
        return shape[1], logits[1][1]

    def _other(self, expected: str, found: Mapping[str, tuple[str, object]]) -> ArtifactError:
        shown = "; ".join(f"{name} {kind} {shape}" for name, (kind, shape) in list(found.items())[:4])
        hint = "adapt it with `shrinkserve export --onnx FILE --preprocess SPEC --labels FILE`"
        return ArtifactError(f"{self.path}: wrong inputs or outputs", expected=expected, found=shown, hint=hint)


def open_session(
    path: Path, threads: int | None = None, *, spin: bool = True, optimise: bool = True, profile: Path | None = None
) -> onnxruntime.InferenceSession:
    """Return a session on the CPU.

    Args:
        path: the .onnx file; its weights lie in the file or in its folder.
        threads: see `OnnxModel`.
        spin: see `OnnxModel`.
        optimise: see `OnnxModel`.
        profile: prefix of a Chrome trace, which `end_profiling` writes.

    Raises:
        ArtifactError: the file is missing, reads weights outside its folder, or ONNX Runtime cannot load it.
    """
    import onnxruntime

    check_external_data(path)
    options = quiet_options()
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    # Spinning after a prediction only takes time from other programs.
    setting = "session.force_spinning_stop" if spin else "session.intra_op.allow_spinning"
    options.add_session_config_entry(setting, "1" if spin else "0")
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as exc:  # ONNX Runtime raises a dozen unrelated classes, one for each status code
        raise ArtifactError(f"{path}: ONNX Runtime cannot load it ({_reason(exc, path)})") from exc


def quiet_options() -> onnxruntime.SessionOptions:
    """Return session options without messages on stderr: errors are raised as exceptions."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return options


def run_session(
    session: onnxruntime.InferenceSession,
    inputs: Mapping[str, npt.NDArray[np.generic]],
    path: Path,
    outputs: tuple[str, ...] | None = None,
) -> Arrays:
    """Run a session and return its outputs by name.

    Args:
        session: the session.
        inputs: arrays by name.
        path: the file of the session, for the message.
        outputs: names of the outputs; all of them if None.

    Raises:
        ArtifactError: ONNX Runtime fails while it runs.
    """
    names = outputs or tuple(value.name for value in session.get_outputs())
    try:
        return dict(zip(names, session.run(list(names), dict(inputs)), strict=True))
    except Exception as exc:  # one class for each status code
        rows = len(next(iter(inputs.values())))
        what = f"{path}: ONNX Runtime cannot run a batch of {rows} ({_reason(exc, path)})"
        shapes = ", ".join(f"{name} {['N', *array.shape[1:]]}" for name, array in inputs.items())
        raise ArtifactError(what, hint=f"export the network with a dynamic batch, for inputs {shapes}") from exc


def _reason(error: Exception, path: Path) -> str:
    """Return the first line of an error of ONNX Runtime, without its prefix and the path."""
    line = str(error).splitlines()[0] if str(error) else type(error).__name__
    line = line.rpartition("Status Message: ")[2].rpartition("[ONNXRuntimeError] : ")[2].replace(str(path), path.name)
    # Without the place in ONNX Runtime's source, such as "/onnxruntime_src/a.cc:123 Run(args) size > 0 was false. ".
    return re.sub(r"(^|:)/\S+:\d+ [^()]*\(.*?\) (.*? was false\. )?", r"\1", line)[:300]
