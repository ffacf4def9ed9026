"""The client's logic, driven without a network or with counted requests to a real server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np
import pytest

from shrinkserve.artifact import Card
from shrinkserve.errors import RequestError
from shrinkserve.preprocess import Preprocess
from shrinkserve.serving.client.core import RETRY_PAUSES, ClientCore
from shrinkserve.serving.client.endpoint import parse_url
from shrinkserve.serving.client.errors import (
    FailedError,
    LateError,
    RefusedError,
    UnavailableError,
    UnknownModelError,
)
from shrinkserve.serving.client.operations import (
    Compute,
    ConfigRequest,
    Flow,
    InferRequest,
    InferResult,
    Operation,
    Pause,
    StatisticsRequest,
)
from shrinkserve.serving.client.transport import Transport, connect
from shrinkserve.serving.repository import serving_options
from shrinkserve.serving.server.server import TritonServer

T = TypeVar("T")
URL = "grpc://127.0.0.1:1"
IMAGE = np.zeros((8, 8, 3), np.uint8)
CARD = Card("onnx", "cats", weights_sha256="0" * 64, preprocess=Preprocess(size=8).to_dict(), classes=["cat", "dog"])
CONFIG = serving_options.build_config("cats_classifier", CARD)
SERVED = [{"name": name, "version": "1"} for name in ("cats_classifier", "cats_preprocess", "cats")]


class Counted:
    """Transport that counts the requests to a server."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.sent: list[str] = []

    def send(self, operation: Operation[T]) -> T:
        self.sent.append(type(operation).__name__)
        return self._transport.send(operation)

    def close(self) -> None:
        self._transport.close()


class Script:
    """Server that is a list of replies; performs flows like a client."""

    def __init__(self, *replies: object, core: ClientCore | None = None) -> None:
        self.core = core or ClientCore(parse_url(URL, 10), None)
        self.replies = list(replies)
        self.sent: list[Operation[Any]] = []
        self.pauses: list[float] = []

    def run(self, flow: Flow[T]) -> T:
        try:
            operation = next(flow)
            while True:
                reply = self._reply(operation)
                operation = flow.throw(reply) if isinstance(reply, Exception) else flow.send(reply)
        except StopIteration as end:
            value: T = end.value
            return value

    def _reply(self, operation: Operation[Any]) -> object:
        if isinstance(operation, Compute):
            return operation.function()
        if isinstance(operation, Pause):
            return self.pauses.append(operation.seconds)
        self.sent.append(operation)
        return self.replies.pop(0)


def probabilities(*row: float) -> InferResult:
    return InferResult({"probabilities": np.array([row], np.float32)}, 1)


@pytest.fixture(params=["http", "grpc"])
def counted(request: pytest.FixtureRequest, tiny_server: TritonServer) -> Iterator[tuple[ClientCore, Counted]]:
    endpoint = parse_url(getattr(tiny_server, f"{request.param}_url"), 20)
    transport = Counted(connect(endpoint))
    yield ClientCore(endpoint, None), transport
    transport.close()


def drive(flow: Flow[T], transport: Transport) -> T:
    try:
        operation = next(flow)
        while True:
            try:
                done = operation.function() if isinstance(operation, Compute) else transport.send(operation)
            except RequestError as exc:
                operation = flow.throw(exc)
            else:
                operation = flow.send(done)
    except StopIteration as end:
        value: T = end.value
        return value


def test_first_classify_of_published_model_makes_two_round_trips() -> None:
    script = Script(CONFIG, probabilities(0.25, 0.75))
    (result,) = script.run(script.core.classify("cats", [(0, IMAGE)], 1, 0))
    assert [(label, probability) for label, probability in result.predictions] == [("dog", 0.75)]
    assert [type(one) for one in script.sent] == [ConfigRequest, InferRequest]


def test_first_classify_without_model_name_makes_three_round_trips() -> None:
    script = Script(SERVED, CONFIG, probabilities(1, 0))
    name = script.run(script.core.choose(None))
    script.run(script.core.classify(name, [(0, IMAGE)], 1, 0))
    assert [type(one) for one in script.sent] == [StatisticsRequest, ConfigRequest, InferRequest]
    script.replies = [probabilities(1, 0)]
    script.run(script.core.classify(script.run(script.core.choose(None)), [(0, IMAGE)], 1, 0))
    assert len(script.sent) == 4


def test_later_classify_makes_one_round_trip(counted: tuple[ClientCore, Counted]) -> None:
    core, transport = counted
    first = drive(core.classify("tiny", [(0, IMAGE)], 4, 0), transport)
    assert len(transport.sent) == 3  # `tiny` has no ensemble, so the first request, for `tiny_classifier`, fails
    assert drive(core.classify("tiny", [(0, IMAGE)], 4, 0), transport) == first
    assert transport.sent[3:] == ["InferRequest"]


def test_requests_are_repeated_once_the_server_was_reached() -> None:
    script = Script(SERVED)
    script.run(script.core.models())
    down = UnavailableError("down")
    script.replies = [down, down, SERVED]
    assert script.run(script.core.only_model()) == "cats"
    assert script.pauses == list(RETRY_PAUSES[:2])
    script.replies = [down, CONFIG]
    assert script.run(script.core.model_info("cats")).classes == ["cat", "dog"]


def test_first_request_is_not_repeated() -> None:
    script = Script(UnavailableError("down"))
    with pytest.raises(UnavailableError):
        script.run(script.core.models())
    assert script.pauses == []


def test_classify_does_not_repeat_a_late_request() -> None:
    script = Script(CONFIG, LateError("late"))
    with pytest.raises(LateError):
        script.run(script.core.classify("cats", [(0, IMAGE)], 1, 0))
    assert script.pauses == []


def test_classify_reads_the_description_again_when_a_version_was_replaced() -> None:
    newer = serving_options.build_config("cats_classifier", CARD, version=2)
    script = Script(CONFIG, UnknownModelError("gone"), newer, probabilities(1, 0))
    (result,) = script.run(script.core.classify("cats", [(0, IMAGE)], 1, 0))
    assert result.version == 2
    assert [one.version for one in script.sent if isinstance(one, InferRequest)] == ["1", "2"]


def test_classify_gives_up_when_every_version_is_replaced() -> None:
    script = Script(*[CONFIG, UnknownModelError("gone")] * 3)
    with pytest.raises(UnavailableError, match="replaced"):
        script.run(script.core.classify("cats", [(0, IMAGE)], 1, 0))


def test_candidate_is_not_among_the_models_to_choose_from() -> None:
    script = Script([*SERVED, {"name": "cats_classifier.candidate", "version": "1"}])
    assert script.run(script.core.choose(None)) == "cats"


def test_statistics_know_the_public_name() -> None:
    script = Script(SERVED[:1], SERVED[:1])
    assert script.run(script.core.statistics("cats")) == SERVED[0]
    with pytest.raises(UnknownModelError, match="expected one of cats, found dogs"):
        script.run(script.core.statistics("dogs"))


def test_image_is_blamed_only_when_the_server_refuses_it() -> None:
    script = Script(RefusedError("bad picture"))
    result = script.run(script.core.classify_encoded("cats", 0, b"bytes", 1, 0))
    assert "bad picture" in str(result.error)


def test_image_is_blamed_when_the_server_decodes_another_one() -> None:
    script = Script(FailedError("nvImageCodec"), probabilities(1, 0))
    result = script.run(script.core.classify_encoded("cats", 0, b"bytes", 1, 0))
    assert "nvImageCodec" in str(result.error)


def test_server_is_blamed_when_it_fails_for_every_image() -> None:
    script = Script(FailedError("Stub process is not healthy"), FailedError("Stub process is not healthy"))
    with pytest.raises(FailedError, match="Stub process"):
        script.run(script.core.classify_encoded("cats", 0, b"bytes", 1, 0))


def test_model_without_class_names_asks_to_be_published_again() -> None:
    config = serving_options.build_config("cats_classifier", CARD)
    del config.parameters["shrinkserve.classes"]
    script = Script(config)
    with pytest.raises(RequestError, match="publish the model again"):
        script.run(script.core.model_info("cats"))


@pytest.mark.parametrize("input_names", [[], ["images"]])
def test_ensemble_is_required_for_encoded_images(input_names: list[str]) -> None:
    config = type(CONFIG)(name="cats")
    for name in input_names:
        config.input.add(name=name)
    script = Script(config)
    with pytest.raises(RequestError, match="add-jpeg cats"):
        script.run(script.core.ensemble("cats"))
    script = Script(UnknownModelError("none"), SERVED[:1])
    with pytest.raises(RequestError, match="add-jpeg cats"):
        script.run(script.core.ensemble("cats"))


def test_name_with_a_slash_is_unknown() -> None:
    script = Script(SERVED)
    with pytest.raises(UnknownModelError, match="expected one of cats"):
        script.run(script.core.model_info("a/b"))
    assert [type(one) for one in script.sent] == [StatisticsRequest]


def test_preprocessing_without_its_classifier_is_not_offered_for_jpeg() -> None:
    script = Script(type(CONFIG)(name="cats_preprocess"))
    with pytest.raises(UnknownModelError, match="cats only the preprocessing"):
        script.run(script.core.ensemble("cats_preprocess"))
