"""Models that take encoded images: a DALI pipeline and ensembles of it with a classifier.

Encoded images are fewer bytes than pixels (half of them for photographs of 500x375), and the server decodes them. One
ensemble returns what the classifier returns, the other one text, for clients that send nothing but the file. All
models are derived from the classifier's folder and written again when its contract, classes or batch size change.

Ours carry the parameter ``shrinkserve.preprocess``. A user's own model that has one of the names is never touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tritonclient.grpc import model_config_pb2 as pb

from shrinkserve.artifact import MODEL
from shrinkserve.atomic import write_atomic
from shrinkserve.errors import ConfigError
from shrinkserve.runtimes.best_lines import lines_model
from shrinkserve.serving import config_text, model_config, names
from shrinkserve.serving.model_config import CONFIG, LABELS
from shrinkserve.serving.repository import dali_pipeline
from shrinkserve.serving.repository.derived_configs import derived_config, interface
from shrinkserve.serving.repository.engine_config import CONFIGS
from shrinkserve.serving.repository.transaction import Change

PIPELINE = "model.dali"
PIPELINE_SOURCE = "dali.py"
APPROXIMATE = f"{model_config.PREFIX}approximate_decoder"
"""Parameter of a pipeline that may decode to other pixels than the contract."""


def takes_encoded(root: Path, name: str) -> bool:
    """Return True if a classifier has derived models in the repository `root`, and only ours."""
    if not name.endswith(names.CLASSIFIER):
        return False
    present = [root / part for part in names.model_names(name).derived if (root / part / CONFIG).is_file()]
    return bool(present) and all(map(is_ours, present))


def is_ours(folder: Path) -> bool:
    """Return True if this module wrote the model of a folder.

    Raises:
        ArtifactError: the configuration cannot be read.
    """
    return (folder / CONFIG).is_file() and model_config.is_derived(config_text.read_config(folder / CONFIG))


def stage(change: Change, folder: Path, *, approximate: bool = False) -> tuple[str, str]:
    """Write the models that are derived from a classifier into a change.

    Args:
        change: of the repository's folders.
        folder: the classifier's staged folder.
        approximate: use DALI's nearest filter for a contract that it cannot compute, also in later versions.

    Returns:
        Names of the ensembles, which depend on the other models.

    Raises:
        ConfigError: not the name of a classifier, a model of the user has a name, or DALI is not installed.
        ArtifactError: a folder that cannot be written.
    """
    if not folder.name.endswith(names.CLASSIFIER):
        raise ConfigError(
            f"{folder.name}: cannot take encoded images", expected=f"a name that ends in {names.CLASSIFIER}"
        )
    known = names.model_names(folder.name)
    for part in known.derived:
        if (change.root / part).exists() and not is_ours(change.root / part):
            hint = "rename that model, or publish under another --name"
            raise ConfigError(f"{change.root / part}: shrinkserve did not write this model", hint=hint)
    base = smallest_config(folder)
    copies = {part: change.copy(part) for part in known.derived}
    decoder = copies[known.pipeline]
    approximate = approximate or is_approximate(decoder)
    configs = {part: derived_config(base, part) for part in known.derived}
    own = configs[known.pipeline].parameters
    if approximate:
        own[APPROXIMATE].string_value = "true"
    own[f"{model_config.PREFIX}dali"].string_value = dali_pipeline.dali_version()
    for part, copy in copies.items():
        (copy / "1").mkdir(exist_ok=True)
        config_text.write_config(copy / CONFIG, configs[part])
    preprocess = model_config.preprocess_of(base)
    for file, write in ((PIPELINE, dali_pipeline.serialise_pipeline), (PIPELINE_SOURCE, dali_pipeline.pipeline_source)):
        write_atomic(decoder / "1" / file, write(preprocess, base.max_batch_size, approximate=approximate))
    write_atomic(copies[known.ensemble] / LABELS, (folder / LABELS).read_bytes())
    write_atomic(copies[known.lines] / "1" / MODEL, lines_model(model_config.class_names(base)))
    return known.ensemble, known.text


def is_approximate(folder: Path) -> bool:
    """Return True if the folder has a pipeline that only approximates its contract."""
    return (folder / CONFIG).is_file() and APPROXIMATE in config_text.read_config(folder / CONFIG).parameters


def unsupported(folder: Path) -> str | None:
    """Return why no pipeline can compute the contract of a classifier; None if one can."""
    return dali_pipeline.unsupported(model_config.preprocess_of(smallest_config(folder)))


def misfit(root: Path, folder: Path, parts: Sequence[str] = ()) -> str | None:
    """Return why the derived models of a repository do not fit a classifier; None if they fit.

    Only the contract, classes, inputs, outputs and batch size must agree. Instances, batching and other options may be
    edited.

    Args:
        root: the repository.
        folder: the classifier's folder, in the repository or staged for it.
        parts: names of the models to compare; all if empty.

    Raises:
        ArtifactError: a configuration that cannot be read.
    """
    known, base = names.model_names(folder.name), smallest_config(folder)
    files = {known.pipeline: PIPELINE, known.lines: MODEL}
    for part in parts or known.derived:
        place = root / part / CONFIG
        if not place.is_file():
            return f"no {part}/{CONFIG}"
        if interface(config_text.read_config(place)) != interface(derived_config(base, part)):
            return f"{part}: does not fit the active version of {folder.name}"
        if part in files and not (place.parent / "1" / files[part]).is_file():
            return f"no {part}/1/{files[part]}"
        if part == known.ensemble and _content(place.with_name(LABELS)) != _content(folder / LABELS):
            return f"{part}/{LABELS}: not the classes of {folder.name}"
    return None


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def state(root: Path, name: str) -> list[bytes]:
    """Return a description of the models derived from a classifier; if it changes, a server must load them again."""
    if not name.endswith(names.CLASSIFIER):
        return []
    known = names.model_names(name)
    configs = [root / part / CONFIG for part in known.derived]
    return [
        *(interface(config_text.read_config(p)).SerializeToString() if p.is_file() else b"" for p in configs),
        _content(root / known.ensemble / LABELS),
    ]


def smallest_config(folder: Path) -> pb.ModelConfig:
    """Return a classifier's configuration with the largest batch size that all its engines take."""
    config = config_text.read_config(folder / CONFIG)
    for path in (folder / CONFIGS).glob("*.pbtxt"):
        config.max_batch_size = min(config.max_batch_size, config_text.read_config(path).max_batch_size)
    return config
