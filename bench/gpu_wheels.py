"""Install a folder of wheels into one temporary folder, and run a command with it. Needs no network.

    python bench/gpu_wheels.py WHEELS python bench/gpu.py --out DIR

All wheels must lie in one folder: DALI's libraries look for nvImageCodec next to their own. A wheel may come in parts
NAME.whl.00, NAME.whl.01 and so on. The folder is used again if the names of the wheels are the same.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def install(wheels: Path) -> Path:
    """Install the wheels, and return the folder they are in."""
    digest = hashlib.sha256("\n".join(sorted(path.name for path in wheels.iterdir())).encode()).hexdigest()[:12]
    site = Path(tempfile.gettempdir()) / f"shrinkserve-wheels-{digest}"
    done = site / "complete"
    if done.is_file():
        return site
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile", "--upgrade"]
    with tempfile.TemporaryDirectory() as folder:
        files = [*sorted(wheels.glob("*.whl")), *joined(wheels, Path(folder))]
        subprocess.run([*pip, "--target", str(site), *map(str, files)], check=True)
    # torch's wheels may make `nvidia` a regular package, which hides the parts of it in other folders.
    (site / "nvidia").mkdir(exist_ok=True)
    extend = "__path__ = __import__('pkgutil').extend_path(__path__, __name__)\n"
    (site / "nvidia" / "__init__.py").write_text(extend, encoding="utf-8")
    done.touch()
    return site


def joined(wheels: Path, folder: Path) -> list[Path]:
    """Put wheels together that come in parts."""
    found = []
    for first in sorted(wheels.glob("*.whl.00")):
        found.append(folder / first.stem)
        with found[-1].open("wb") as whole:
            for part in sorted(wheels.glob(f"{first.stem}.[0-9][0-9]")):
                whole.write(part.read_bytes())
    return found


def main() -> None:
    """Install the wheels and become the command."""
    folder, *command = sys.argv[1:]
    paths = [str(install(Path(folder))), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
