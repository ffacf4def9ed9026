from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image
from scipy.special import log_softmax, softmax

from shrinkserve.errors import ArtifactError, ConfigError
from shrinkserve.exporting import graph
from shrinkserve.exporting.calibrate import fit_temperature, scale_probabilities
from shrinkserve.preprocess import Preprocess

HEADER = '<ir_version: 9, opset_import: ["" : 20]> g (float[N,3] x) => (float[N,3] logits, float[N,3] probabilities)'
PREPROCESS = Preprocess(size=8)
CLASSES = ["a", "b", "c"]


def write(folder: Path, body: str) -> Path:
    path = folder / "model.onnx"
    onnx.save(onnx.parser.parse_model(f"{HEADER} {{ {body} }}"), path)
    return path


@pytest.mark.parametrize(
    "body",
    [
        "logits = Identity(x) probabilities = Softmax<axis=1>(logits)",
        "logits = Identity(x) p = Softmax<axis=1>(logits) probabilities = Identity(p)",
    ],
)
def test_scale_probabilities_divides_the_logits_of_the_softmax_only(tmp_path: Path, body: str) -> None:
    path = write(tmp_path, body)
    model = graph.load(path)
    scale_probabilities(model, 2.5)
    graph.save(model, path)
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    logits, probabilities = session.run(["logits", "probabilities"], {"x": x})
    assert np.array_equal(logits, x)
    assert probabilities == pytest.approx(softmax(x / 2.5, axis=1), abs=1e-6)


def test_scale_probabilities_refuses_a_graph_without_a_softmax(tmp_path: Path) -> None:
    model = graph.load(write(tmp_path, "logits = Identity(x) probabilities = Sigmoid(x)"))
    with pytest.raises(ArtifactError, match="Softmax"):
        scale_probabilities(model, 2.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 images of three classes; the grey value of an image is its number."""
    root = tmp_path_factory.mktemp("data")
    for number in range(60):
        path = root / "val" / CLASSES[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number,) * 3).save(path)
    return root


def overconfident(images: np.ndarray) -> np.ndarray:
    """Return large logits that are wrong for every fifth image."""
    numbers = images[:, 0, 0, 0].astype(int)
    predicted = np.where(numbers % 5 == 0, numbers + 1, numbers) % 3
    return 10 * np.eye(3, dtype=np.float32)[predicted]


def test_fit_temperature_has_the_highest_likelihood(folder: Path) -> None:
    model = SimpleNamespace(predict=overconfident)
    found = fit_temperature(model, folder, PREPROCESS, CLASSES)
    images = np.arange(60, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)
    logits, labels = overconfident(images), np.arange(60) % 3

    def likelihood(temperature: float) -> float:
        return float(log_softmax(logits / temperature, axis=1)[np.arange(60), labels].sum())

    best = max(np.linspace(0.3, 8, 2000), key=likelihood)
    assert min(best, 4.0) == pytest.approx(found, rel=0.03)


@pytest.mark.parametrize(("root", "classes"), [(None, CLASSES), ("folder", ["a", "c", "b"])])
def test_fit_temperature_needs_images_of_the_classes(folder: Path, root: str | None, classes: list[str]) -> None:
    with pytest.raises(ConfigError, match="--calibrate"):
        fit_temperature(SimpleNamespace(predict=overconfident), folder if root else None, PREPROCESS, classes)
