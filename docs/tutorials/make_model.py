"""Write a classifier of red and blue as colours.onnx, and photographs of both classes into photos/."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

weights = np.array([[-4, -4, 8], [8, -4, -4]], np.float32)  # blue and red, from the mean of each channel
nodes = [
    helper.make_node("GlobalAveragePool", ["images"], ["mean"]),
    helper.make_node("Flatten", ["mean"], ["features"]),
    helper.make_node("Gemm", ["features", "weights"], ["logits"], transB=1),
]
graph = helper.make_graph(
    nodes,
    "colours",
    [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, 32, 32])],
    [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 2])],
    [numpy_helper.from_array(weights, "weights")],
)
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), "colours.onnx")

random = np.random.default_rng(0)
for split, count in (("train", 8), ("val", 8)):
    for name, channel in (("blue", 2), ("red", 0)):
        folder = Path("photos", split, name)
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = random.integers(0, 120, (48, 64, 3), dtype=np.uint8)
            pixels[..., channel] += 100
            Image.fromarray(pixels).save(folder / f"{number}.jpg")
