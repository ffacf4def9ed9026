from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shrinkserve.artifact import Card, check_name, read_card, sha256_file
from shrinkserve.config import ServingConfig
from shrinkserve.engines import Engine
from shrinkserve.errors import ArtifactError, ConfigError
from shrinkserve.preprocess import Preprocess
from shrinkserve.serving import model_config
from shrinkserve.serving.repository.activation import labels_file
from shrinkserve.serving.repository.transaction import Change
from shrinkserve.serving.repository.writer import Repository

CLASSES = ["zero", "one", "two"]


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    path = tmp_path / "made" / "model.onnx"
    path.parent.mkdir()
    path.write_bytes(b"the repository stores a model, it does not read it")
    return path


@pytest.fixture
def card(model_file: Path) -> Card:
    return card_of(model_file)


def card_of(model_file: Path) -> Card:
    return Card(
        "onnx",
        "made",
        weights_sha256="cd" * 32,
        files={"model.onnx": sha256_file(model_file)},
        preprocess=Preprocess(size=32).to_dict(),
        classes=CLASSES,
    )


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "models")


def test_add_writes_what_triton_loads(repository: Repository, model_file: Path, card: Card) -> None:
    place = repository.add("digits", model_file, card)
    assert place == repository.root / "digits" / "1"
    assert (place / "model.onnx").read_bytes() == model_file.read_bytes()
    assert (repository.root / "digits" / "labels.txt").read_text() == "zero\none\ntwo\n"
    assert read_card(place, "onnx").name == "digits"
    assert model_config.active_version(repository.config("digits")) == 1
    assert repository.models() == ["digits"]


def test_add_counts_versions_up_or_takes_the_number(repository: Repository, model_file: Path, card: Card) -> None:
    assert [repository.add("digits", model_file, card).name for _ in range(2)] == ["1", "2"]
    assert repository.add("digits", model_file, card, version=7).name == "7"
    assert repository.add("digits", model_file, card).name == "8"
    assert repository.versions("digits") == [1, 2, 7, 8]
    with pytest.raises(ConfigError, match="version 7 exists"):
        repository.add("digits", model_file, card, version=7)


def test_newest_version_is_active_with_its_contract(repository: Repository, model_file: Path, card: Card) -> None:
    repository.add("digits", model_file, card, options=ServingConfig(instances=3))
    other = replace(card, weights_sha256="ef" * 32, classes=[*CLASSES, "three"])
    repository.add("digits", model_file, other)
    config = repository.config("digits")
    assert model_config.active_version(config) == 2
    assert model_config.parameters(config)["weights_sha256"] == "ef" * 32
    assert list(config.output[0].dims) == [4]
    assert (repository.root / "digits" / "labels.txt").read_text().splitlines() == [*CLASSES, "three"]
    assert config.instance_group[0].count == 3, "what was chosen for the model outlives a version"


def test_methods_accept_public_and_classifier_name(repository: Repository, model_file: Path, card: Card) -> None:
    """Use the public name and Triton's name of the classifier."""
    repository.add("digits_classifier", model_file, card)
    for name in ("digits", "digits_classifier"):
        assert repository.add(name, model_file, card).parent == repository.root / "digits_classifier"
        repository.configure(name, ServingConfig(max_batch_size=len(name)))
        assert repository.config("digits_classifier").max_batch_size == len(name)
        repository.activate(name, 1)
        assert repository.active(name) == 1
        assert repository.card(name, 1).name == "digits_classifier"
        repository.remove(name, repository.versions(name)[1:])
        assert repository.versions(name) == [1]
    assert repository.models() == ["digits_classifier"]


def test_pipeline_and_ensemble_are_no_models(repository: Repository, model_file: Path, card: Card) -> None:
    repository.add("digits_classifier", model_file, card)
    decoder = repository.root / "digits_preprocess"
    decoder.mkdir()
    (decoder / "config.pbtxt").write_text('name: "digits_preprocess" backend: "dali" max_batch_size: 1')
    with pytest.raises(ConfigError, match="expected one of digits, found digits_preprocess"):
        repository.active("digits_preprocess")


def test_initial_options_do_not_replace_tuned_ones(repository: Repository, model_file: Path, card: Card) -> None:
    initial = ServingConfig(max_batch_size=8)
    repository.add("digits", model_file, card, initial=initial)
    assert repository.config("digits").max_batch_size == 8
    repository.configure("digits", ServingConfig(max_batch_size=4, instances=2))
    repository.add("digits", model_file, card, initial=initial)
    config = repository.config("digits")
    assert (config.max_batch_size, config.instance_group[0].count) == (4, 2)


def test_add_rejects_file_that_differs_from_its_card(
    repository: Repository, model_file: Path, card: Card, tmp_path: Path
) -> None:
    repository.add("digits", model_file, card)
    before = {p: p.read_bytes() for p in (repository.root / "digits").rglob("*") if p.is_file()}
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(b"something else")
    with pytest.raises(ArtifactError, match="sha256 does not match"):
        repository.add("digits", damaged, card)
    assert {p: p.read_bytes() for p in (repository.root / "digits").rglob("*") if p.is_file()} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["damaged.onnx", "made", "models"], "no staging folder is left"


@pytest.mark.parametrize("name", ["", ".hidden", "..", "../up", "a/b", "/etc/x", "a b", "a\n", "x" * 129, "-x"])
def test_add_rejects_name_that_is_a_path(repository: Repository, model_file: Path, card: Card, name: str) -> None:
    with pytest.raises(ConfigError, match="model name"):
        repository.add(name, model_file, card)


@given(st.text(min_size=1, max_size=20))
def test_accepted_names_stay_inside_the_repository(name: str) -> None:
    root = Path("/models")
    try:
        check_name(name)
    except ConfigError:
        return
    assert (root / name).resolve().parent == root


@pytest.mark.parametrize("version", [0, -1, 2**31])
def test_add_rejects_versions_that_triton_would_not_read(
    repository: Repository, model_file: Path, card: Card, version: int
) -> None:
    with pytest.raises(ConfigError, match="version"):
        repository.add("digits", model_file, card, version=version)


def test_unwritable_repository_is_one_line(tmp_path: Path, model_file: Path, card: Card) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ArtifactError, match="cannot be written"):
        Repository(tmp_path / "file" / "models").add("digits", model_file, card)


def test_unknown_model_names_the_known_ones(repository: Repository, model_file: Path, card: Card) -> None:
    repository.add("digits", model_file, card)
    with pytest.raises(ConfigError, match="expected one of digits, found cats"):
        repository.versions("cats")
    with pytest.raises(ArtifactError, match="no such model repository"):
        Repository(repository.root / "nowhere").models()


def test_labels_file_rejects_names_of_several_lines() -> None:
    assert labels_file(["a b", "ü"]) == "a b\nü\n".encode()
    with pytest.raises(ArtifactError, match="one line each"):
        labels_file(["two\nlines"])
    with pytest.raises(ArtifactError, match="without control characters"):
        labels_file(["\x1b[31mred"])


def _add_for_ever(root: Path, model_file: Path) -> None:
    card = card_of(model_file)
    while True:
        Repository(root).add("digits", model_file, card)


def assert_whole(repository: Repository) -> None:
    """Check that Triton could load the model and that every file matches its card."""
    version = model_config.active_version(repository.config("digits"))
    assert version in repository.versions("digits")
    for number in repository.versions("digits"):
        repository.card("digits", number)
    assert (repository.root / "digits" / "labels.txt").read_text().splitlines() == CLASSES


def test_killed_writer_leaves_a_valid_repository(repository: Repository, model_file: Path, card: Card) -> None:
    repository.add("digits", model_file, card)
    spawn = multiprocessing.get_context("fork")
    rng = random.Random()
    for delay in (rng.uniform(0, 0.1) for _ in range(20)):
        publisher = spawn.Process(target=_add_for_ever, args=(repository.root, model_file))
        publisher.start()
        time.sleep(delay)
        assert publisher.pid is not None
        os.kill(publisher.pid, signal.SIGKILL)
        publisher.join()
        assert_whole(repository)
    repository.add("digits", model_file, card)
    assert not list(repository.root.parent.glob(".models.staging-*")), "the next publisher sweeps what was left"


def _add_some(root: Path, model_file: Path) -> None:
    for _ in range(5):
        Repository(root).add("digits", model_file, card_of(model_file))


def test_publishers_wait_for_each_other(repository: Repository, model_file: Path) -> None:
    spawn = multiprocessing.get_context("fork")
    publishers = [spawn.Process(target=_add_some, args=(repository.root, model_file)) for _ in range(3)]
    for publisher in publishers:
        publisher.start()
    for publisher in publishers:
        publisher.join()
        assert publisher.exitcode == 0
    assert repository.versions("digits") == list(range(1, 16))
    assert_whole(repository)


@pytest.mark.parametrize(("umask", "file", "folder"), [(0o077, 0o600, 0o700), (0o022, 0o644, 0o755)])
def test_files_of_a_version_follow_the_umask(
    tmp_path: Path, model_file: Path, card: Card, umask: int, file: int, folder: int
) -> None:
    old = os.umask(umask)
    try:
        Repository(tmp_path / "models").add("tiny", model_file, card)
    finally:
        os.umask(old)
    for path in (tmp_path / "models" / "tiny").rglob("*"):
        assert path.stat().st_mode & 0o777 == (folder if path.is_dir() else file), path


@pytest.mark.parametrize("url", ["s3://bucket/models", "gs://bucket/models", "as://account/models"])
def test_remote_repository_is_rejected(url: str) -> None:
    with pytest.raises(ConfigError, match="expected a local folder, found a URL of"):
        Repository(Path(url))


def test_add_places_version_and_engines_in_one_transaction(
    tmp_path: Path, model_file: Path, card: Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_file.with_name("int8.onnx").write_bytes(b"another graph")
    engine = Engine("int8", "onnxruntime", "int8.onnx", "int8")
    repository = Repository(tmp_path / "models")
    commit, commits = Change.commit, []

    def spy(change: Change, *, hidden: Collection[str] = ()) -> None:
        commits.append(hidden)
        commit(change, hidden=hidden)

    monkeypatch.setattr(Change, "commit", spy)
    place = repository.add("tiny", model_file, card, engines=[engine])
    assert len(commits) == 1
    assert read_card(place).files.keys() == {"model.onnx", "int8.onnx"}
    assert repository.engines("tiny") == ["int8"]
    with pytest.raises(ArtifactError, match="no such file"):
        repository.add("tiny", model_file, card, engines=[replace(engine, file="missing.onnx")])
    assert repository.versions("tiny") == [1]


def test_add_hashes_each_file_once(
    tmp_path: Path, model_file: Path, card: Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    real = Path.open

    def spy(path: Path, *arguments: object, **options: object) -> object:
        opened.append(path.name)
        return real(path, *arguments, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", spy)
    Repository(tmp_path / "models").add("tiny", model_file, card)
    assert opened.count("model.onnx") == 2, "read once, written once"


@pytest.mark.parametrize("name", ["my model", "netz-ä", ".hidden", "../up", "x" * 125])
def test_check_place_rejects_invalid_name_before_the_work(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="model name"):
        Repository(tmp_path / "models").check_place(name, None)
    assert not (tmp_path / "models").exists()
