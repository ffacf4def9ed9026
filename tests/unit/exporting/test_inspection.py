from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shrinkserve.artifact import Card
from shrinkserve.errors import ArtifactError
from shrinkserve.exporting.inspection import describe_artifact


@pytest.mark.parametrize(
    "details",
    [
        {"engines": ["x"]},
        {"engines": None},
        {"engines": {"x": 5}},
        {"engines": {"x": {}}},
        {"steps": 5},
        {"steps": [{}]},
        {"steps": [{"step": "a", "from": "b", "to": "c", "parity": None}]},
    ],
)
def test_inspect_rejects_damaged_cards(tmp_path: Path, details: dict[str, Any]) -> None:
    Card(kind="onnx", name="m", details=details).write(tmp_path)
    with pytest.raises(ArtifactError, match=r"damaged card|not a readable card"):
        describe_artifact(tmp_path)
