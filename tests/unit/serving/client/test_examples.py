"""The examples in the docstrings of the client."""

from __future__ import annotations

import asyncio
import inspect
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from shrinkserve import AsyncClient, Client, predict
from shrinkserve.artifact import Card


def example(documented: object) -> str:
    """Return the code in a docstring."""
    (code,) = re.findall(r"```python\n(.*?)```", inspect.getdoc(documented) or "", re.DOTALL)
    return textwrap.dedent(code)


@pytest.fixture(autouse=True)
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("cat.jpg", "dog.jpg"):
        Image.new("RGB", (20, 20), (1, 2, 3)).save(name)


@pytest.mark.parametrize("client", [Client, AsyncClient])
def test_example_of_client_runs(client: type, fake: Any, fake_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    fake.config.max_batch_size = 1
    names = {"Client": Client, "AsyncClient": AsyncClient, "asyncio": asyncio}
    code = example(client).replace("grpc://127.0.0.1:8001", fake_url)
    if client is AsyncClient:
        code = f"async def main():\n{textwrap.indent(code, '    ')}\nasyncio.run(main())"
    exec(code, names)
    assert capsys.readouterr().out == "b 0.5\nb 0.5\n"


def test_example_of_predict_runs(
    make_model: Callable[..., tuple[Path, Card]], capsys: pytest.CaptureFixture[str]
) -> None:
    path, card = make_model()
    card.write(path.parent)
    exec(example(predict).replace("model_repository/digits_classifier/1", str(path.parent)), {"predict": predict})
    assert capsys.readouterr().out.startswith("cat.jpg [Prediction(")
