from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image

from shrinkserve.api.exporting import export
from shrinkserve.api.predict import predict
from shrinkserve.preprocess import Preprocess

sys.path.insert(0, str(Path(__file__).parents[1] / "exporting"))
from conftest import CLASSES, write_run


def test_predict_applies_the_temperature_of_a_version_to_its_engines(tmp_path: Path) -> None:
    """The graph divides the logits itself; a runtime that returns logits only does not."""
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    for number in range(60):
        path = tmp_path / "data" / "val" / CLASSES[number % len(CLASSES)] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((40, 40), 4 * number).convert("RGB").save(path)
    run = write_run(tmp_path / "run", Preprocess(size=32), "relu")
    options = {"data": tmp_path / "data", "repository": tmp_path / "models", "to": "bf16", "max_batch": 2}
    version = export(run, calibrate=True, **options)  # type: ignore[arg-type]
    assert not 0.8 < version.card.details["temperature"] < 1.25
    (right,), (found,) = (predict([path], model=f"{version.folder}{engine}") for engine in ("", "@bfloat16"))
    assert dict(found.predictions) == pytest.approx(dict(right.predictions), abs=0.01)
