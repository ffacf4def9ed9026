"""Models that take encoded images: a DALI pipeline and an ensemble of it with a classifier.

Encoded images are fewer bytes than pixels (half of them for photographs of 500x375), and the server decodes them.
Both models are derived from the classifier's folder and written again when its contract or batch size changes.

Ours carry the parameter ``shrinkserve.preprocess``. A user's own model that has one of the names is never touched.
"""

from __future__ import annotations

import json
from pathlib import Path

from tritonclient.grpc import model_config_pb2 as pb

from shrinkserve.artifact import INPUT, LOGITS, PROBABILITIES
from shrinkserve.atomic import write_atomic
from shrinkserve.errors import ConfigError
from shrinkserve.machine import usable_cores
from shrinkserve.preprocess import Preprocess
from shrinkserve.serving import config_text, model_config, names
from shrinkserve.serving.model_config import CONFIG, ENCODED, LABELS
from shrinkserve.serving.repository import dali_pipeline
from shrinkserve.serving.repository.dali_pipeline import PIPELINE_INPUT
from shrinkserve.serving.repository.engine_config import CONFIGS
from shrinkserve.serving.repository.transaction import Change

PIPELINE = "model.dali"
PIPELINE_SOURCE = "dali.py"
APPROXIMATE = f"{model_config.PREFIX}approximate_decoder"
"""Parameter of a pipeline that may decode to other pixels than the contract."""
MAX_DECODERS = 16
"""Most decoder instances of a new configuration."""


def takes_encoded(root: Path, name: str) -> bool:
    """Return True if a classifier has a pipeline or ensemble in the repository `root`, and only ours."""
    if not name.endswith(names.CLASSIFIER):
        return False
    present = [root / part for part in names.model_names(name)[1:] if (root / part / CONFIG).is_file()]
    return bool(present) and all(map(is_ours, present))


def is_ours(folder: Path) -> bool:
    """Return True if this module wrote the model of a folder.

    Raises:
        ArtifactError: the configuration cannot be read.
    """
    if not (folder / CONFIG).is_file():
        return False
    config = config_text.read_config(folder / CONFIG)
    return "preprocess" in model_config.parameters(config) and (config.backend or config.platform) in {
        "dali",
        "ensemble",
    }


def stage(change: Change, folder: Path, *, approximate: bool = False) -> str:
    """Write the pipeline and ensemble of a classifier into a change.

    Args:
        change: of the repository's folders.
        folder: the classifier's staged folder.
        approximate: use DALI's nearest filter for a contract that it cannot compute, also in later versions.

    Returns:
        Name of the ensemble, which depends on the other two models.

    Raises:
        ConfigError: not the name of a classifier, a model of the user has a name, or DALI is not installed.
        ArtifactError: a folder that cannot be written.
    """
    if not folder.name.endswith(names.CLASSIFIER):
        raise ConfigError(
            f"{folder.name}: cannot take encoded images", expected=f"a name that ends in {names.CLASSIFIER}"
        )
    _, pipeline, ensemble = names.model_names(folder.name)
    for part in (pipeline, ensemble):
        if (change.root / part).exists() and not is_ours(change.root / part):
            hint = "rename that model, or publish under another --name"
            raise ConfigError(f"{change.root / part}: shrinkserve did not write this model", hint=hint)
    base = smallest_config(folder)
    preprocess = _contract(base)
    decoder, joined = change.copy(pipeline), change.copy(ensemble)
    approximate = approximate or is_approximate(decoder)
    pipeline_config = _pipeline_config(base)
    if approximate:
        pipeline_config.parameters[APPROXIMATE].string_value = "true"
    pipeline_config.parameters[f"{model_config.PREFIX}dali"].string_value = dali_pipeline.dali_version()
    for copy, config in ((decoder, pipeline_config), (joined, _ensemble_config(base))):
        (copy / "1").mkdir(exist_ok=True)
        write_atomic(copy / CONFIG, config_text.to_text(config).encode())
    for file, write in ((PIPELINE, dali_pipeline.serialise_pipeline), (PIPELINE_SOURCE, dali_pipeline.pipeline_source)):
        write_atomic(decoder / "1" / file, write(preprocess, base.max_batch_size, approximate=approximate))
    write_atomic(joined / LABELS, (folder / LABELS).read_bytes())
    return ensemble


def is_approximate(folder: Path) -> bool:
    """Return True if the folder has a pipeline that only approximates its contract."""
    return (folder / CONFIG).is_file() and APPROXIMATE in config_text.read_config(folder / CONFIG).parameters


def unsupported(folder: Path) -> str | None:
    """Return why no pipeline can compute the contract of a classifier; None if one can."""
    return dali_pipeline.unsupported(_contract(smallest_config(folder)))


def _contract(config: pb.ModelConfig) -> Preprocess:
    return Preprocess.from_dict(json.loads(model_config.parameters(config)["preprocess"]))


def misfit(root: Path, folder: Path) -> str | None:
    """Return why the pipeline and ensemble of a repository do not fit a classifier; None if they fit.

    Only the contract, inputs, outputs and batch size must agree. Instances, batching and other options may be edited.

    Args:
        root: the repository.
        folder: the classifier's folder, in the repository or staged for it.
    """
    base = smallest_config(folder)
    _, pipeline, ensemble = names.model_names(folder.name)
    for part, config in ((pipeline, _pipeline_config(base)), (ensemble, _ensemble_config(base))):
        place = root / part / CONFIG
        if not place.is_file():
            return f"no {part}/{CONFIG}"
        if _interface(config_text.read_config(place)) != _interface(config):
            return f"{part}: does not fit the active version of {folder.name}"
    labels = [place.read_bytes() if place.is_file() else b"" for place in (root / ensemble / LABELS, folder / LABELS)]
    if labels[0] != labels[1]:
        return f"{ensemble}/{LABELS}: not the classes of {folder.name}"
    return None if (root / pipeline / "1" / PIPELINE).is_file() else f"no {pipeline}/1/{PIPELINE}"


def state(root: Path, name: str) -> list[bytes]:
    """Return bytes that change when a server has to load the pipeline and ensemble of a classifier again."""
    _, pipeline, ensemble = names.model_names(name)
    configs = [root / part / CONFIG for part in (pipeline, ensemble)]
    labels = root / ensemble / LABELS
    return [
        *(_interface(config_text.read_config(p)).SerializeToString() if p.is_file() else b"" for p in configs),
        labels.read_bytes() if labels.is_file() else b"",
    ]


def smallest_config(folder: Path) -> pb.ModelConfig:
    """Return a classifier's configuration with the largest batch size that all its engines take."""
    config = config_text.read_config(folder / CONFIG)
    for path in (folder / CONFIGS).glob("*.pbtxt"):
        config.max_batch_size = min(config.max_batch_size, config_text.read_config(path).max_batch_size)
    return config


def _interface(config: pb.ModelConfig) -> pb.ModelConfig:
    """Return the part of a configuration that its neighbours depend on."""
    found = pb.ModelConfig(name=config.name, backend=config.backend, max_batch_size=config.max_batch_size)
    found.platform = config.platform
    for tensor in config.input:
        found.input.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    for tensor in config.output:
        found.output.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    found.ensemble_scheduling.CopyFrom(config.ensemble_scheduling)
    _copy_contract(config, found)
    return found


def _pipeline_config(base: pb.ModelConfig) -> pb.ModelConfig:
    """Return the configuration of ``NAME_preprocess``, given that of the classifier.

    NVIDIA's DALI backend fails a batch of several requests on a host without a GPU (its copy uses CUDA), so each
    request is executed alone, and there is one single-threaded instance for each core.
    """
    name = names.model_names(base.name)[1]
    config = pb.ModelConfig(name=name, backend="dali", max_batch_size=base.max_batch_size)
    # Encoded images have different lengths; ragged input lets a request carry several of them.
    config.input.add(name=PIPELINE_INPUT, data_type=pb.TYPE_UINT8, dims=[-1], allow_ragged_batch=True)
    config.output.add(name=INPUT, data_type=pb.TYPE_UINT8, dims=base.input[0].dims if base.input else [])
    config.dynamic_batching.preferred_batch_size.append(1)
    config.instance_group.add(kind=pb.ModelInstanceGroup.KIND_CPU, count=min(MAX_DECODERS, usable_cores()))
    config.parameters["num_threads"].string_value = "1"
    _copy_contract(base, config)
    return config


def _ensemble_config(base: pb.ModelConfig) -> pb.ModelConfig:
    """Return the configuration of ``NAME``, given that of the classifier."""
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
