from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

from shrinkserve.exporting import graph
from shrinkserve.exporting.macs import count_macs


def write(path: Path, text: str) -> ir.Model:
    """Parse a graph in ONNX's text format; it has no shapes but those of its inputs and outputs."""
    onnx.save(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]> {text}'), path)
    return graph.load(path)


def test_count_of_convolutions_and_products(tmp_path: Path) -> None:
    weights = ", ".join(["0.5"] * 24)
    model = write(
        tmp_path / "net.onnx",
        f"""
        agraph (float[N, 3, 8, 8] x) => (float[N, 4] y)
        <float[2, 3, 2, 2] w = {{{weights}}}, float[2, 1, 1, 1] d = {{1, 1}}, int64[2] shape = {{0, -1}},
         float[2, 4] g = {{1, 1, 1, 1, 1, 1, 1, 1}}, float[4, 4] m = {{{", ".join(["1"] * 16)}}}>
        {{
            a = Conv <strides = [2, 2]> (x, w)
            b = Conv <group = 2> (a, d)
            p = GlobalAveragePool (b)
            f = Reshape (p, shape)
            h = Gemm (f, g)
            y = MatMul (h, m)
        }}
        """,
    )
    # Outputs of 4x4 pixels: 2 * 3 * 4 products each, then 2 * 1; then 2 * 4 and 4 * 4.
    assert count_macs(model) == 16 * 24 + 16 * 2 + 8 + 16


def test_count_of_attention_multiplies_batched_matrices(tmp_path: Path) -> None:
    model = write(
        tmp_path / "net.onnx",
        "agraph (float[N, 5, 6] x) => (float[N, 5, 5] y) { t = Transpose <perm = [0, 2, 1]> (x)  y = MatMul (x, t) }",
    )
    assert count_macs(model) == 5 * 5 * 6


@pytest.mark.parametrize(
    "text",
    [
        'agraph (float[N, 3] x) => (float[N, 3] y) { y = Einsum <equation = "ij->ij"> (x) }',
        "agraph (float[N, M] x, float[M, K] w) => (float[N, K] y) { y = MatMul (x, w) }",
        """agraph (float[N, 2] x) => (float[N, 2] y) <float[2, 2] w = {1, 1, 1, 1}, int64 n = {3}>
        {
            y = Loop <body = b (int64 i, bool c, float[1, 2] v) => (bool d, float[1, 2] u)
                { d = Identity (c)  u = MatMul (v, w) }> (n, , x)
        }""",
        """agraph (float[N, 2] x) => (float[N, 2] y) <float[2, 2] w = {1, 1, 1, 1}, float s = {1}>
        { y = com.microsoft.DynamicQuantizeMatMul (x, w, s) }""",
    ],
    ids=["Einsum", "sizes", "Loop", "com.microsoft"],
)
def test_count_is_none_if_unknown(tmp_path: Path, text: str) -> None:
    assert count_macs(write(tmp_path / "net.onnx", text)) is None
