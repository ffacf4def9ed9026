from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from shrinkserve.errors import ArtifactError, ConfigError
from shrinkserve.preprocess import Preprocess
from shrinkserve.runtimes.metadata import FileDescription, read_description, to_metadata

PREPROCESS = Preprocess(size=48, geometry="center")


def test_written_metadata_is_read_back() -> None:
    found = read_description(to_metadata(PREPROCESS, ["cat", "dog"]), "x.onnx")
    assert found == FileDescription(["cat", "dog"], PREPROCESS, 48)


def test_metadata_of_ultralytics_is_read() -> None:
    properties = {"names": "{0: 'cat', 1: 'dog'}", "imgsz": "[224, 224]", "author": "Ultralytics"}
    assert read_description(properties, "x.onnx") == FileDescription(["cat", "dog"], None, 224)


@pytest.mark.parametrize("names", ["['cat', 'dog']", '["cat", "dog"]', '{"1": "dog", "0": "cat"}'])
@pytest.mark.parametrize("size", ["224", "(224, 224)", "[224]"])
def test_other_spellings_of_names_and_size_are_read(names: str, size: str) -> None:
    assert read_description({"names": names, "imgsz": size}, "x.onnx") == FileDescription(["cat", "dog"], None, 224)


def test_size_that_is_not_square_is_rejected() -> None:
    with pytest.raises(ArtifactError, match=r"x\.onnx: images are not square"):
        read_description({"names": "['cat']", "imgsz": "[224, 192]"}, "x.onnx")


@pytest.mark.parametrize(
    "names", ["", "cat", "{1: 'cat'}", "[" * 100_000, "{0: 'cat', 'x': 'dog'}", "__import__('os')"]
)
def test_read_description_ignores_other_names(names: str) -> None:
    assert read_description({"names": names}, "x.onnx") == FileDescription()


@pytest.mark.parametrize(
    "properties",
    [
        {"shrinkserve.preprocess": "{"},
        {"shrinkserve.preprocess": "[]"},
        {"shrinkserve.preprocess": '{"size": 3}'},
        {"shrinkserve.classes": '{"a": 1}'},
        {"shrinkserve.classes": "[1, 2]"},
    ],
)
def test_damaged_metadata_is_rejected(properties: dict[str, str]) -> None:
    with pytest.raises(ArtifactError, match=r"x\.onnx"):
        read_description(properties, "x.onnx")


def test_options_that_contradict_metadata_are_rejected() -> None:
    found = FileDescription(["cat", "dog"], None, 224)
    found.check(Preprocess(size=224), ["chat", "chien"], Path("x.onnx"))
    with pytest.raises(ConfigError, match="image size"):
        found.check(Preprocess(size=192), ["a", "b"], Path("x.onnx"))
    with pytest.raises(ConfigError, match="number of classes"):
        found.check(Preprocess(size=224), ["a"], Path("x.onnx"))
    with pytest.raises(ConfigError, match="order of the classes"):
        found.check(Preprocess(size=224), ["dog", "cat"], Path("x.onnx"))


@pytest.mark.parametrize("mean", [(0, 0, 0), (0.485, 0.456, 0.406), (1e-9, 0.1, 1 / 3)])
def test_changed_preprocessing_is_rejected(mean: tuple[float, float, float]) -> None:
    preprocess = replace(PREPROCESS, mean=mean)
    contract = {"shrinkserve.contract": preprocess.fingerprint}
    assert read_description({**to_metadata(preprocess, ["a"]), **contract}, "x.onnx").preprocess == preprocess
    changed = to_metadata(replace(preprocess, channel_order="BGR"), ["a"])
    with pytest.raises(ArtifactError, match="was changed"):
        read_description({**changed, **contract}, "x.onnx")


def test_other_normalisation_than_in_the_graph_is_rejected() -> None:
    found = FileDescription(None, PREPROCESS, 48)
    found.check(replace(PREPROCESS, geometry="stretch", crop_fraction=1.0), ["a"], Path("x.onnx"))
    with pytest.raises(ConfigError, match="mean"):
        found.check(replace(PREPROCESS, mean=(0.1, 0.1, 0.1)), ["a"], Path("x.onnx"))
