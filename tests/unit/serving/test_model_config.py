from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from shrinkserve.artifact import Card
from shrinkserve.config import ServingConfig
from shrinkserve.errors import ArtifactError
from shrinkserve.preprocess import Preprocess
from shrinkserve.serving import config_text, model_config
from shrinkserve.serving.repository import serving_options

CARD = Card(
    kind="onnx",
    name="cats",
    weights_sha256="ab" * 32,
    preprocess=Preprocess(size=32, mean=(0.1, 0.2, 0.3)).to_dict(),
    classes=["cat", "dog", 'a "quoted" name'],
)


def parsed(config: pb.ModelConfig) -> pb.ModelConfig:
    return text_format.Parse(config_text.to_text(config), pb.ModelConfig())


def test_to_text_round_trip() -> None:
    config = serving_options.build_config(
        "cats", CARD, ServingConfig(preferred_batch_sizes=(4, 8), response_cache=True)
    )
    assert parsed(config) == config


def test_build_config_writes_inputs_and_outputs() -> None:
    config = parsed(serving_options.build_config("cats", CARD))
    assert (config.name, config.backend, config.platform) == ("cats", "onnxruntime", "")
    assert [(i.name, i.data_type, list(i.dims)) for i in config.input] == [("images", pb.TYPE_UINT8, [32, 32, 3])]
    assert [(o.name, o.data_type, list(o.dims), o.label_filename) for o in config.output] == [
        ("logits", pb.TYPE_FP32, [3], ""),
        ("probabilities", pb.TYPE_FP32, [3], "labels.txt"),
    ]


def test_build_config_writes_our_parameters() -> None:
    own = model_config.parameters(parsed(serving_options.build_config("cats", CARD)))
    assert Preprocess.from_dict(json.loads(own["preprocess"])) == Preprocess.from_dict(CARD.preprocess)
    assert own["contract"] == Preprocess.from_dict(CARD.preprocess).fingerprint
    assert own["weights_sha256"] == CARD.weights_sha256


def test_set_options_writes_every_option() -> None:
    options = ServingConfig(
        max_batch_size=16,
        instances=2,
        threads=1,
        queue_delay_us=500,
        preferred_batch_sizes=(4, 8),
        queue_size=64,
        queue_timeout_us=7000,
        priority_levels=3,
        response_cache=True,
    )
    config = parsed(serving_options.build_config("cats", CARD, options))
    assert config.max_batch_size == 16
    assert [(g.count, g.kind) for g in config.instance_group] == [(2, pb.ModelInstanceGroup.KIND_AUTO)]
    assert config.parameters["intra_op_thread_count"].string_value == "1"
    batching = config.dynamic_batching
    assert batching.max_queue_delay_microseconds == 500
    assert list(batching.preferred_batch_size) == [4, 8]
    assert batching.default_queue_policy.max_queue_size == 64
    assert batching.default_queue_policy.default_timeout_microseconds == 7000
    assert (batching.priority_levels, batching.default_priority_level) == (3, 1)
    assert config.response_cache.enable


def test_default_options_use_no_queue_policy() -> None:
    """Queue policies and priorities do, and that thread stalls requests for half a second (Triton 2.51)."""
    config = serving_options.build_config("cats", CARD)
    assert config.HasField("dynamic_batching")
    assert config.dynamic_batching == pb.ModelDynamicBatching()
    assert config.dynamic_batching == parsed(config).dynamic_batching
    assert parsed(config).HasField("dynamic_batching")


def test_options_of_round_trip() -> None:
    tuned = ServingConfig(instances=2, threads=1, queue_size=4, queue_timeout_us=9, preferred_batch_sizes=(4,))
    for options in (ServingConfig(), tuned):
        assert serving_options.options_of(serving_options.build_config("cats", CARD, options)) == options


def test_warmup_has_smallest_preferred_and_largest_batch() -> None:
    config = serving_options.build_config("cats", CARD, ServingConfig(max_batch_size=16, preferred_batch_sizes=(4,)))
    assert [sample.batch_size for sample in config.model_warmup] == [1, 4, 16]
    assert all(list(sample.inputs["images"].dims) == [32, 32, 3] for sample in config.model_warmup)
    assert not serving_options.build_config("cats", CARD, ServingConfig(warmup=False)).model_warmup


def test_set_contract_keeps_tuned_options() -> None:
    config = serving_options.build_config("cats", CARD, ServingConfig(instances=2))
    config.optimization.graph.level = 1
    other = Card("onnx", "cats", preprocess=Preprocess(size=64).to_dict(), classes=["cat", "dog"])
    model_config.set_contract(config, other, 7)
    assert list(config.input[0].dims) == [64, 64, 3]
    assert [list(output.dims) for output in config.output] == [[2], [2]]
    assert model_config.active_version(config) == 7
    assert config.instance_group[0].count == 2
    assert config.optimization.graph.level == 1
    assert list(config.model_warmup[0].inputs["images"].dims) == [64, 64, 3]


def test_build_config_rejects_incomplete_card() -> None:
    with pytest.raises(ArtifactError, match="expected preprocess and classes"):
        serving_options.build_config("cats", Card("onnx", "cats"))


def test_read_config_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "config.pbtxt"
    path.write_text('name: "cats"\nmax_batch_sise: 4\n')
    with pytest.raises(ArtifactError, match=r"config\.pbtxt.*2:.*max_batch_sise"):
        config_text.read_config(path)


def test_read_config_rejects_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not a readable configuration"):
        config_text.read_config(tmp_path / "config.pbtxt")


def test_parameters_contain_the_class_names() -> None:
    card = replace(CARD, classes=["3", 'a "quoted"\\ name', "größe", "b: c"])
    config = config_text.parse_config_text(config_text.to_text(serving_options.build_config("cats", card)))
    assert json.loads(config.parameters["shrinkserve.classes"].string_value) == card.classes


@pytest.mark.parametrize("classes", [["x"] * 100_001, ["x" * 100_000] * 100])
def test_card_with_too_many_class_names_is_refused(classes: list[str]) -> None:
    with pytest.raises(ArtifactError, match="too many class names"):
        serving_options.build_config("cats", replace(CARD, classes=classes))
