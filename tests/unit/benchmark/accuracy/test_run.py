"""Accuracy pass and its journal on images with known predictions."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shrinkserve.benchmark.accuracy.agreement import LISTED_FLIPS
from shrinkserve.benchmark.accuracy.journal import Journal
from shrinkserve.benchmark.accuracy.run import AccuracyPlan, AccuracyResult, measure_accuracy
from shrinkserve.benchmark.plain import to_json
from shrinkserve.benchmark.targets.target import Logits, Pixels, Target
from shrinkserve.data import open_dataset
from shrinkserve.errors import ArtifactError, RequestError
from shrinkserve.preprocess import Preprocess

COLOURS = {"dark": 20, "middle": 120, "light": 220}
PREPROCESS = Preprocess(size=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("colours")
    for split in ("train", "val"):
        for name, value in COLOURS.items():
            (root / split / name).mkdir(parents=True)
            for number in range(7):
                Image.new("RGB", (12, 12), (value + number,) * 3).save(root / split / name / f"{number}.png")
    return root


def by_brightness(images: Pixels) -> Logits:
    """Predict every image correctly: classes sorted by name are dark, light, middle."""
    mean = images.mean(axis=(1, 2, 3))
    centres = np.array([20, 220, 120], np.float32)
    return -np.abs(mean[:, None] - centres).astype(np.float32)


def all_but_the_lightest(images: Pixels) -> Logits:
    """Predict dark for the two lightest images."""
    logits = by_brightness(images)
    logits[images.mean(axis=(1, 2, 3)) > 224.5, 0] = 1.0
    return logits


@pytest.fixture
def plan(folder: Path, make_target: Callable[..., Target]) -> AccuracyPlan:
    targets = [make_target("first", by_brightness), make_target("second", all_but_the_lightest, exact=False)]
    return AccuracyPlan(open_dataset(folder, "validation"), PREPROCESS, targets, [(0, 1)], batch_size=4)


def finish(plan: AccuracyPlan, result: AccuracyResult, journal: Journal | None = None) -> AccuracyResult:
    measure_accuracy(plan, result, journal.append if journal else lambda _: None)
    return result


def test_every_image_is_counted_once_in_every_stage(plan: AccuracyPlan) -> None:
    result = finish(plan, AccuracyResult.empty(plan))
    first, second = result.scores
    assert (result.done, first.images, first.top1, second.top1) == (21, 21, 21, 19)
    (comparison,) = result.comparisons
    assert (comparison.flips, comparison.lost, comparison.gained) == (2, 2, 0)
    assert [Path(flip.name).name for flip in comparison.listed] == ["5.png", "6.png"]
    assert all((flip.before, flip.after, flip.label) == (1, 0, 1) for flip in comparison.listed)
    assert not comparison.gated


def test_limit_is_spread_over_the_classes(plan: AccuracyPlan, make_target) -> None:
    def always_dark(images: Pixels) -> Logits:
        return np.tile(np.array([1, 0, 0], np.float32), (len(images), 1))

    some = replace(plan, targets=[make_target("constant", always_dark)], links=[], limit=3)
    result = finish(some, AccuracyResult.empty(some))
    assert result.done == some.images == 3
    assert result.scores[0].top1 == 1  # the first three images are all dark


def test_encoded_images_are_sent_to_stages_that_decode(plan: AccuracyPlan, make_target) -> None:
    def decode_itself(encoded: list[bytes]) -> Logits:
        images = [PREPROCESS.evaluate_bytes(one) for one in encoded]
        return by_brightness(np.stack(images))

    decoder = replace(make_target("decoder", decode_itself), payload="jpeg")
    mixed = replace(plan, targets=[plan.targets[0], decoder])
    result = finish(mixed, AccuracyResult.empty(mixed))
    assert result.scores[1].top1 == result.scores[1].images == 21
    assert result.comparisons[0].worst == 0


def test_memory_does_not_grow_with_the_dataset(plan: AccuracyPlan, make_target) -> None:
    """With eight times the images, each a flip, memory grows by two dozen bytes for each image."""

    records = [plan.dataset.record(index) for index in range(len(plan.dataset))]

    class Repeated:
        def __init__(self, times: int) -> None:
            self.root, self.split, self.classes = plan.dataset.root, plan.dataset.split, plan.dataset.classes
            self._times = times

        def __len__(self) -> int:
            return self._times * len(records)

        def record(self, index: int):
            return records[index % len(records)]

    contrary = make_target("contrary", lambda images: -by_brightness(images))

    def peak(times: int) -> int:
        many = replace(plan, dataset=Repeated(times), targets=[plan.targets[0], contrary], batch_size=32)
        tracemalloc.start()
        result = finish(many, AccuracyResult.empty(many))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert result.comparisons[0].flips == result.done == len(many.dataset) > LISTED_FLIPS
        return most

    assert peak(400) - peak(50) < 350 * len(records) * 50  # an image has 192 bytes of pixels


def test_order_of_the_images_changes_the_order_checksum_only(plan: AccuracyPlan, make_target) -> None:
    class Reversed:
        def __init__(self, dataset) -> None:
            self.root, self.split, self.classes = dataset.root, dataset.split, dataset.classes
            self._dataset = dataset

        def __len__(self) -> int:
            return len(self._dataset)

        def record(self, index: int):
            return self._dataset.record(len(self) - 1 - index)

    backwards = replace(plan, dataset=Reversed(plan.dataset))
    first, second = finish(plan, AccuracyResult.empty(plan)), finish(backwards, AccuracyResult.empty(backwards))
    assert first.fingerprint == second.fingerprint
    assert first.order != second.order
    assert first.scores[1].right == second.scores[1].right[::-1]


class _Fails:
    """Server that goes away after `good` requests."""

    def __init__(self, good: int) -> None:
        self.good = good

    def __call__(self, images: Pixels) -> Logits:
        self.good -= 1
        if self.good < 0:
            raise RequestError("http://127.0.0.1:1: no response")
        return all_but_the_lightest(images)


def test_interrupted_pass_is_resumed_without_repeating_images(plan: AccuracyPlan, make_target, tmp_path: Path) -> None:
    dying = AccuracyPlan(
        plan.dataset, PREPROCESS, [plan.targets[0], make_target("second", _Fails(3), exact=False)], [(0, 1)], 4
    )
    path = tmp_path / "out" / "accuracy.jsonl"
    first = Journal(path, dying)
    with pytest.raises(RequestError, match="second: failed after 12 of 21 images"):
        finish(dying, first.restore(), first)
    with path.open("a") as stream:
        stream.write('{"done": 4, "scor')  # what a power cut leaves
    seen: list[int] = []

    def counting(images: Pixels) -> Logits:
        seen.append(len(images))
        return by_brightness(images)

    again = AccuracyPlan(plan.dataset, PREPROCESS, [make_target("first", counting), plan.targets[1]], [(0, 1)], 4)
    second = Journal(path, again)
    resumed = finish(again, second.restore(), second)
    assert sum(seen) == 9
    assert resumed == finish(plan, AccuracyResult.empty(plan))
    assert Journal(path, again).restore() == resumed


def test_journal_of_another_measurement_is_refused(plan: AccuracyPlan, tmp_path: Path) -> None:
    path = tmp_path / "accuracy.jsonl"
    Journal(path, plan).restore()
    other = AccuracyPlan(plan.dataset, Preprocess(size=16), plan.targets, plan.links, 4)
    with pytest.raises(ArtifactError, match="contract"):
        Journal(path, other).restore()


def test_logits_that_are_not_finite_are_valid_json_and_can_be_resumed(
    plan: AccuracyPlan, make_target, tmp_path
) -> None:
    broken = replace(plan, targets=[plan.targets[0], make_target("broken", lambda i: by_brightness(i) * np.nan)])
    path = tmp_path / "accuracy.jsonl"
    journal = Journal(path, broken)
    result = finish(broken, journal.restore(), journal)
    assert Journal(path, broken).restore() == result
    record = result.to_record(broken)
    json.loads(to_json(record), parse_constant=pytest.fail)
    assert record.comparisons[0].worst is None
    assert record.comparisons[0].flips == record.images == 21
    assert record.stages[1].calibration is None


@pytest.mark.parametrize("content", ["", "{}\n", "[1]\n", "no journal\n", '{"done": 3}'])
def test_damaged_journal_is_refused(plan: AccuracyPlan, tmp_path: Path, content: str) -> None:
    path = tmp_path / "accuracy.jsonl"
    path.write_text(content)
    with pytest.raises(ArtifactError, match=r"accuracy\.jsonl"):
        Journal(path, plan).restore()


def test_journal_in_a_folder_that_cannot_be_written_is_refused(plan: AccuracyPlan, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="accuracy"):
        Journal(tmp_path / "file" / "accuracy.jsonl", plan).restore()


def test_journal_on_a_full_disk_is_one_error(plan: AccuracyPlan) -> None:
    with pytest.raises(ArtifactError, match="/dev/full"):
        Journal(Path("/dev/full"), plan).append(AccuracyResult.empty(plan))
