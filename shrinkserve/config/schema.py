"""The sections of a recipe as frozen dataclasses. The docstring under a field documents the key (`recipe show`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from shrinkserve.preprocess import Geometry, Interpolation, Preprocess

Positive = Annotated[int, Gt(0)]
NotNegative = Annotated[int, Ge(0)]
Fraction = Annotated[float, Ge(0), Le(1)]
Decay = Annotated[float, Ge(0), Lt(1)]
Part = Annotated[float, Gt(0), Le(1)]
Ratio = Annotated[float, Gt(0), Le(1000)]
Factor = Annotated[float, Ge(0), Le(1000)]
Channel = Annotated[int, Ge(0), Le(255)]

MAX_SEED = 2**32 - 1
"""The largest seed; torch takes larger ones, other libraries do not."""


@dataclass(frozen=True)
class ModelConfig:
    """The network."""

    network: str = "shrinkcnn-a"
    """Name of a network of the zoo, path of a .prototxt file, timm:NAME, or python:package.module:function, a function
    that takes the number of classes and returns a torch.nn.Module from images [N, 3, S, S] to logits."""
    classes: Positive | None = None
    """Number of classes. Default: the number of classes in the data."""
    input_size: Annotated[int, Ge(32), Le(4096)] = 224
    """Height and width of the input, in pixels."""
    width: Annotated[float, Gt(0)] = 1.0
    """Factor on the number of channels."""
    dropout: Decay = 0.0
    """Probability that a value before the classifier is set to zero. Not for python:."""
    stochastic_depth: Decay = 0.0
    """Probability that the last residual branch is left out of an image's path; it grows linearly from the first one.
    Not for python:."""
    pretrained: bool = True
    """For timm:NAME without --init: begin with timm's pretrained weights; false: random weights."""
    batch_norm_decay: Decay | Literal["auto"] = 0.999
    """Decay of the running statistics per update (TensorFlow's convention: 1 - torch's momentum). auto: by the number
    of updates."""


@dataclass(frozen=True)
class InputConfig:
    """Preprocessing for evaluation and serving; `shrinkserve.preprocess.Preprocess` without the size."""

    crop_fraction: Annotated[float, Gt(0), Le(1)] = 0.875
    """Part of height and width that the central crop keeps. For geometry center: input_size / shorter side."""
    interpolation: Interpolation = "bicubic"
    """Resampling filter. bicubic_tf1 is TensorFlow 1's, without antialiasing and half-pixel centres."""
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Subtracted from each channel (RGB), on the scale 0 to 1."""
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Divisor of each channel (RGB), on the scale 0 to 1; above 0."""
    geometry: Geometry = "squash"
    """squash: crop, then resize to a square. stretch: no crop. center: timm's. resize_crop: torchvision's.
    tpu: Google's EfficientNet code. letterbox: fit the image and fill the border."""
    resize_size: Annotated[int, Gt(0), Le(4096)] | None = None
    """Shorter side before the central crop, for geometry resize_crop only."""
    antialias: bool = True
    """Widen the filter where the image shrinks."""
    fill: tuple[Channel, Channel, Channel] = (0, 0, 0)
    """Colour of the border (RGB), for geometry letterbox."""
    apply_exif: bool = False
    """Turn an image as its EXIF orientation says. ImageNet's pipelines ignore it."""


@dataclass(frozen=True)
class AugmentConfig:
    """Augmentation of training images, applied to uint8 pixels before normalisation."""

    crop_area: tuple[Part, Part] = (0.75, 1.0)
    """Area of the random crop, as a fraction of the image: lowest and highest."""
    crop_aspect: tuple[Ratio, Ratio] = (0.75, 1.33)
    """Width / height of the random crop: lowest and highest."""
    random_interpolation: bool = True
    """Draw nearest, bilinear or bicubic for each image; false: use input.interpolation."""
    flip: bool = True
    """Mirror left and right with a probability of 1/2."""
    brightness: Fraction = 0.4
    """Largest value added or subtracted, as a fraction of the full scale."""
    saturation: tuple[Factor, Factor] = (0.6, 1.4)
    """Factor on the saturation: lowest and highest."""
    contrast: tuple[Factor, Factor] = (0.6, 1.4)
    """Factor on the contrast: lowest and highest."""
    hue: Annotated[float, Ge(0), Le(0.5)] = 0.1
    """Largest rotation of the hue, in turns."""
    erase_probability: Fraction = 0.5
    """Probability that noise overwrites a rectangle."""
    erase_area: tuple[Part, Part] = (0.02, 0.4)
    """Area of that rectangle, as a fraction of the image: lowest and highest."""
    erase_aspect: tuple[Ratio, Ratio] = (0.3, 3.3)
    """Width / height of that rectangle: lowest and highest."""
    rand_augment: str = ""
    """RandAugment after the flip, in timm's notation, such as rand-m9-mstd0.5-inc1; empty: off. Needs timm, and the
    portable loader."""
    mixup: Annotated[float, Ge(0)] = 0.0
    """Alpha of mixup, which blends pairs of images of a batch; 0: off."""
    cutmix: Annotated[float, Ge(0)] = 0.0
    """Alpha of cutmix, which pastes a rectangle of another image; 0: off. With both, each batch gets one at random."""


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimiser."""

    name: Literal["rmsprop", "sgd", "adamw"] = "rmsprop"
    """rmsprop is TensorFlow's: epsilon inside the root, mean square from one."""
    lr: Annotated[float, Gt(0)] = 0.1
    """Peak learning rate for reference_batch images per update; scales linearly with the real number."""
    reference_batch: Positive = 256
    """Images per update that lr is meant for."""
    decay: Decay = 0.9
    """Decay of the mean square (rmsprop), or beta 2 (adamw)."""
    momentum: Decay = 0.9
    """Momentum (rmsprop, sgd), or beta 1 (adamw)."""
    epsilon: Annotated[float, Gt(0)] = 1.0
    """Added to the mean square (rmsprop) or to its root (adamw)."""
    backbone_lr: Fraction = 1.0
    """Factor on the learning rate of all layers but the classifier."""
    l2: Annotated[float, Ge(0)] = 4e-5
    """Factor of sum(w^2) in the loss, so the gradient is 2 * l2 * w. For adamw: decoupled decay of 2 * l2."""


@dataclass(frozen=True)
class ScheduleConfig:
    """The learning rate: linear warm-up from 0, then cosine to 0."""

    epochs: Positive = 300
    """Passes over the training images."""
    warmup_epochs: Annotated[float, Ge(0)] = 10
    """Epochs of the warm-up; at most epochs."""
    per_step: bool = False
    """Change the learning rate at every update; false: once per epoch."""
    sizes: tuple[Annotated[int, Ge(32), Le(4096)], ...] = ()
    """Sizes of the training images, each for an equal part of the epochs, for example 128, 160, 192, 224: small images
    are faster. Evaluation uses model.input_size. Default: model.input_size throughout."""


@dataclass(frozen=True)
class TrainConfig:
    """The training loop."""

    batch_size: Positive = 128
    """Images per batch of one process."""
    accumulate: Positive = 1
    """Batches per update."""
    label_smoothing: Decay = 0.1
    """Part of the target that is spread over all classes."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: weight each class in the loss by the inverse of its number of images (reads all records of shards)."""
    freeze: tuple[str, ...] = ()
    """Prefixes of layers that are not trained, for example stem or stage1. Their batch norms keep their statistics."""
    head_epochs: NotNegative = 0
    """Epochs at the start in which only the classifier is trained."""
    ema_decay: Decay | Literal["auto"] = 0.999
    """Largest decay of the averaged weights (EMA), which are evaluated and exported. auto: by the number of updates."""
    ema_buffers: bool = False
    """Average the running statistics of batch norms too; false: copy them."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of forward and backward passes; weights stay in float32. auto: bfloat16 on a GPU that has it."""
    channels_last: bool = True
    """Memory format of images and weights."""
    compile: bool | Literal["default", "reduce-overhead", "max-autotune"] = False
    """Compile the network with torch.compile, in a mode; true: default."""
    cuda_graph: bool | Literal["auto"] = "auto"
    """Capture forward and backward pass as a CUDA graph. auto: where that works, for example with one GPU,
    accumulate = 1, no mixup and cutmix."""
    sync_batch_norm: bool = False
    """Compute batch statistics over all processes (GPUs only)."""
    deterministic: bool = False
    """Use deterministic algorithms only, so that a run can be repeated bit for bit."""
    threads: Positive | None = None
    """CPU threads of torch per process. Default: an even share of the cores."""
    seed: Annotated[int, Ge(0), Le(MAX_SEED)] = 0
    """Seed of weights, order of images and augmentation."""
    evaluate_every: Positive = 1
    """Epochs between two evaluations."""
    checkpoint_steps: NotNegative = 0
    """Updates between two checkpoints; 0: only at the end of an epoch."""
    keep_checkpoints: Positive = 3
    """Number of newest checkpoints that are kept, besides the best one."""


@dataclass(frozen=True)
class DistillConfig:
    """Distillation; used with `train --teacher` only."""

    weight: Fraction = 0.5
    """Part of the loss that compares with the teacher; the rest compares with the labels."""
    temperature: Annotated[float, Gt(0), Le(100)] = 2.0
    """Divisor of the logits of both networks: higher values compare more than the best classes."""


@dataclass(frozen=True)
class DataConfig:
    """Reading and decoding of training images."""

    loader: Literal["portable", "dali", "auto"] = "portable"
    """dali needs NVIDIA DALI, and decodes on the GPU if there is one. auto: the faster one on this machine."""
    workers: NotNegative | None = None
    """Loader processes per training process; 0: none. Default: an even share of the usable cores."""
    max_bad_fraction: Fraction = 0.0
    """Fraction of unreadable images per epoch above which the run stops."""


@dataclass(frozen=True)
class ServingConfig:
    """Options of the served model. `shrinkserve repo tune` measures which suit a machine."""

    max_batch_size: Positive = 32
    """Largest batch that the server accepts."""
    instances: Positive = 1
    """Copies of the model. One with all threads: lowest latency. Several with one thread each: highest throughput."""
    threads: NotNegative = 0
    """CPU threads per instance; 0: one per core."""
    queue_delay_us: NotNegative = 0
    """Microseconds that a request waits for others to form a batch. Helps only if the GPU is mostly idle."""
    preferred_batch_sizes: tuple[Positive, ...] = ()
    """Batch sizes that the engine is tuned for; at most max_batch_size."""
    # The next three cost latency on Triton 2.51: requests stall for 500 ms now and then (serving_options.set_options).
    queue_size: NotNegative = 0
    """Requests that may wait; further ones are rejected. 0: no limit."""
    queue_timeout_us: NotNegative = 0
    """Microseconds after which a waiting request is rejected; 0: never."""
    priority_levels: NotNegative = 0
    """Number of priorities; 1 is served first and is the default. 0: one queue for all."""
    warmup: bool = True
    """Run the model once before it becomes ready, so that the first request is not slow."""
    response_cache: bool = False
    """Cache responses for repeated images. Needs NVIDIA's container, started with --cache-config."""


@dataclass(frozen=True)
class Recipe:
    """A complete description of a training run."""

    name: str
    """Name of the model, from the run folder to Triton: letters, digits, '-', '_' and '.'."""
    model: ModelConfig = field(default_factory=ModelConfig)
    input: InputConfig = field(default_factory=InputConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    data: DataConfig = field(default_factory=DataConfig)
    serving: ServingConfig = field(default_factory=ServingConfig)

    @property
    def preprocess(self) -> Preprocess:
        """Evaluation preprocessing at the network's input size."""
        return Preprocess(size=self.model.input_size, **asdict(self.input))

    def to_dict(self) -> dict[str, object]:
        """Return plain data. Keys that are None are left out, because TOML has no null."""
        return _without_none(asdict(self))

    def to_toml(self) -> str:
        """Return the text of a recipe file."""
        import tomli_w

        return tomli_w.dumps(self.to_dict())


def _without_none(raw: Mapping[str, object]) -> dict[str, object]:
    return {k: _without_none(v) if isinstance(v, dict) else v for k, v in raw.items() if v is not None}
