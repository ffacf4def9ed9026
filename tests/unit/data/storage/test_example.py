from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shrinkserve.data.storage.example import Features, encode_example
from shrinkserve.errors import DataError

# Written by hand from example.proto: Example{features{feature{key:"a" value{int64_list{value:[7]}}}}}.
GOLDEN = bytes.fromhex("0a0c0a0a0a016112051a030a0107")


def test_encode_writes_the_wire_format() -> None:
    assert encode_example({"a": 7}) == GOLDEN
    assert Features(GOLDEN).int("a") == 7


@given(st.binary(), st.text(), st.integers(-(2**63), 2**63 - 1))
def test_features_reads_encoded_values(data: bytes, text: str, number: int) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    raw = encode_example({"data": data, "text": text, "number": number, "boxes": [0.5, 1.0]})
    assert raw == encode_example({"boxes": [0.5, 1.0], "number": number, "text": text, "data": data})
    features = Features(raw)
    assert (features.bytes("data"), features.text("text"), features.int("number")) == (data, text, number)
    assert features.text("none") == ""


@given(st.binary(max_size=200))
def test_features_raises_data_error_on_any_bytes(raw: bytes) -> None:
    with pytest.raises(DataError, match=r"feature|not a tf\.train\.Example"):
        Features(raw).bytes("image/encoded")


def test_features_refuses_another_kind_and_several_values() -> None:
    with pytest.raises(DataError, match=r"'a': expected one value \(bytes_list\), found 0 values"):
        Features(encode_example({"a": 1})).bytes("a")
    with pytest.raises(DataError, match="found 2 values"):
        Features(encode_example({"a": [1, 2]})).int("a")
