"""A model that takes encoded images: a DALI pipeline before a classifier, joined by an ensemble.

Encoded images are fewer bytes than pixels (half of them, for photographs of 500x375), and their decoding moves from
the client to the server. The pipeline and the ensemble hold nothing that is not in the classifier's folder: they are
made from it, and made anew when a version of another contract, or other batch sizes, come into it.
"""

from __future__ import annotations

import json
from pathlib import Path

from tritonclient.grpc import model_config_pb2 as pb

from shrinkserve.artifact import INPUT, LOGITS, PROBABILITIES
from shrinkserve.atomic import write_atomic
from shrinkserve.errors import ConfigError
from shrinkserve.preprocess import Preprocess
from shrinkserve.serving import model_config, names
from shrinkserve.serving.model_config import CONFIG, ENCODED, LABELS
from shrinkserve.serving.repository.dali_pipeline import PIPELINE_INPUT, serialise_pipeline
from shrinkserve.serving.repository.engine_config import CONFIGS
from shrinkserve.serving.repository.transaction import Change

PIPELINE = "model.dali"


def takes_encoded(root: Path, name: str) -> bool:
    """Whether a classifier has a pipeline or an ensemble in the repository `root`."""
    return name.endswith(names.CLASSIFIER) and any(
        (root / part / CONFIG).is_file() for part in names.model_names(name)[1:]
    )


def stage(change: Change, folder: Path) -> None:
    """Write the pipeline and the ensemble of a classifier into a change.

    Args:
        change: of the repository's folders; gets two more.
        folder: of the classifier, as it will be.

    Raises:
        ConfigError: not the name of a classifier, a model of another kind in the way, or DALI is not installed.
        ArtifactError: a place that cannot be written.
    """
    if not folder.name.endswith(names.CLASSIFIER):
        raise ConfigError(
            f"{folder.name}: cannot take encoded images", expected=f"a name that ends in {names.CLASSIFIER}"
        )
    _, pipeline, ensemble = names.model_names(folder.name)
    for part, kind in ((pipeline, "dali"), (ensemble, "ensemble")):
        place = change.root / part / CONFIG
        if place.is_file() and kind not in {(found := model_config.read_config(place)).backend, found.platform}:
            raise ConfigError(
                f"{place.parent}: a model of another kind has the name", hint="export under another --name"
            )
    base = smallest(folder)
    preprocess = Preprocess.from_dict(json.loads(model_config.parameters(base)["preprocess"]))
    for copy, config in ((change.copy(pipeline), _pipeline(base)), (change.copy(ensemble), _ensemble(base))):
        (copy / "1").mkdir(exist_ok=True)
        write_atomic(copy / CONFIG, model_config.to_text(config).encode())
        if copy.name == pipeline:
            write_atomic(copy / "1" / PIPELINE, serialise_pipeline(preprocess, base.max_batch_size))
        else:
            write_atomic(copy / LABELS, (folder / LABELS).read_bytes())


def misfit(root: Path, folder: Path) -> str | None:
    """Why the pipeline and the ensemble in a repository do not fit a classifier; None when they do.

    Args:
        root: the repository.
        folder: the classifier's, in it or staged for it.
    """
    base = smallest(folder)
    _, pipeline, ensemble = names.model_names(folder.name)
    for part, config in ((pipeline, _pipeline(base)), (ensemble, _ensemble(base))):
        place = root / part / CONFIG
        if not place.is_file():
            return f"no {part}/{CONFIG}"
        if model_config.read_config(place) != config:
            return f"{part}: does not fit the version of {folder.name} that answers"
    labels = [place.read_bytes() if place.is_file() else b"" for place in (root / ensemble / LABELS, folder / LABELS)]
    if labels[0] != labels[1]:
        return f"{ensemble}/{LABELS}: not the classes of {folder.name}"
    return None if (root / pipeline / "1" / PIPELINE).is_file() else f"no {pipeline}/1/{PIPELINE}"


def state(root: Path, name: str) -> list[bytes]:
    """What tells whether a server has to load the pipeline and the ensemble of a classifier again."""
    _, pipeline, ensemble = names.model_names(name)
    places = (root / pipeline / CONFIG, root / ensemble / CONFIG, root / ensemble / LABELS)
    return [place.read_bytes() if place.is_file() else b"" for place in places]


def smallest(folder: Path) -> pb.ModelConfig:
    """A classifier's configuration with the batch size that all of its engines take."""
    config = model_config.read_config(folder / CONFIG)
    for path in (folder / CONFIGS).glob("*.pbtxt"):
        config.max_batch_size = min(config.max_batch_size, model_config.read_config(path).max_batch_size)
    return config


def _pipeline(base: pb.ModelConfig) -> pb.ModelConfig:
    """The configuration of ``NAME_preprocess``, given that of the classifier."""
    name = names.model_names(base.name)[1]
    config = pb.ModelConfig(name=name, backend="dali", max_batch_size=base.max_batch_size)
    # Encoded images have a length each; ragged, so that requests are batched all the same.
    config.input.add(name=PIPELINE_INPUT, data_type=pb.TYPE_UINT8, dims=[-1], allow_ragged_batch=True)
    config.output.add(name=INPUT, data_type=pb.TYPE_UINT8, dims=base.input[0].dims if base.input else [])
    config.dynamic_batching.SetInParent()
    config.instance_group.add(kind=pb.ModelInstanceGroup.KIND_CPU, count=1)
    _copy_contract(base, config)
    return config


def _ensemble(base: pb.ModelConfig) -> pb.ModelConfig:
    """The configuration of ``NAME``, given that of the classifier."""
    _, pipeline, name = names.model_names(base.name)
    config = pb.ModelConfig(name=name, platform="ensemble", max_batch_size=base.max_batch_size)
    config.input.add(name=ENCODED, data_type=pb.TYPE_UINT8, dims=[-1])
    config.output.extend(base.output)
    decode = config.ensemble_scheduling.step.add(model_name=pipeline, model_version=-1)
    decode.input_map[PIPELINE_INPUT] = ENCODED
    decode.output_map[INPUT] = "pixels"
    classify = config.ensemble_scheduling.step.add(model_name=base.name, model_version=-1)
    classify.input_map[INPUT] = "pixels"
    for output in (LOGITS, PROBABILITIES):
        classify.output_map[output] = output
    _copy_contract(base, config)
    return config


def _copy_contract(base: pb.ModelConfig, config: pb.ModelConfig) -> None:
    for key in ("preprocess", "contract"):
        config.parameters[f"{model_config.PREFIX}{key}"].CopyFrom(base.parameters[f"{model_config.PREFIX}{key}"])
