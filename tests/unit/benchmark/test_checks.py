from __future__ import annotations

from types import SimpleNamespace

import pytest

from shrinkserve.benchmark.checks import check_batches, check_classes
from shrinkserve.benchmark.load.plan import LoadPlan
from shrinkserve.errors import ConfigError, DataError


def stages(classes: list[str], served: object = None) -> SimpleNamespace:
    return SimpleNamespace(model="digits", classes=classes, served=served, max_batch_size=32)


@pytest.mark.parametrize(
    ("dataset", "model"),
    [
        (["a", "b"], ["a", "b"]),
        (["n01", "n02"], ["cat", "dog"]),  # names in another language do not define an order
    ],
)
def test_check_classes_accepts(dataset: list[str], model: list[str]) -> None:
    check_classes(SimpleNamespace(root="data", classes=dataset), stages(model))


@pytest.mark.parametrize(
    ("dataset", "model", "message"),
    [
        (["b", "a"], ["a", "b"], "class 0 to be 'a', found 'b'"),
        (["a", "b", "c"], ["a", "b"], "expected 2 classes, found 3"),
        (["a", "b"], ["background", "a", "b"], "data pack"),
    ],
)
def test_check_classes_refuses_other_classes(dataset: list[str], model: list[str], message: str) -> None:
    with pytest.raises(DataError) as caught:
        check_classes(SimpleNamespace(root="data", classes=dataset), stages(model))
    assert message in str(caught.value)


def test_check_batches_refuses_a_batch_larger_than_the_servers() -> None:
    check_batches(LoadPlan(batches=(1, 32)), stages(["a"], served="model"))
    check_batches(LoadPlan(batches=(500,)), stages(["a"]))  # without a server any batch is possible
    with pytest.raises(ConfigError, match="at most 32"):
        check_batches(LoadPlan(batches=(4, 500)), stages(["a"], served="model"))
