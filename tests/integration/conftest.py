"""Fixtures of the integration tests: a server, one-line errors, and a headless browser."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from shrinkserve.serving.server.server import ServerOptions, TritonServer

if TYPE_CHECKING:
    from playwright.sync_api import Browser as Chromium
    from playwright.sync_api import BrowserContext, Page

PROGRAM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def server(smoke_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A server of `smoke_repository` on free ports."""
    log = tmp_path_factory.mktemp("log") / "triton.log"
    with TritonServer(smoke_repository, ServerOptions(log_file=log)) as running:
        yield running


@pytest.fixture
def error_line(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """Return the last line on stderr, which must be the only one that starts with ``error:``."""

    def read() -> str:
        lines = capsys.readouterr().err.splitlines()
        assert [line for line in lines if line.startswith("error:")] == lines[-1:]
        return lines[-1]

    return read


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium; the test is skipped where there is none."""
    if PROGRAM is None:
        pytest.skip("no chromium on PATH (apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=PROGRAM, args=["--no-sandbox"])
        yield Browser(chromium)
        chromium.close()


class Browser:
    """One page of a browser.

    Attributes:
        complaints: errors and console messages of the page.
        requests: URLs that the page requested.
    """

    def __init__(self, chromium: Chromium) -> None:
        self._chromium = chromium
        self._context: BrowserContext | None = None
        self.complaints: list[str] = []
        self.requests: list[str] = []

    def show(self, file: Path, width: int, scheme: Any) -> None:
        """Load a file in a window of `width` pixels, of a phone below 600, in the "light" or "dark" scheme."""
        if self._context is not None:
            self._context.close()
        phone = width < 600
        self._context = self._chromium.new_context(
            viewport={"width": width, "height": 800},
            is_mobile=phone,
            device_scale_factor=1 + phone,
            color_scheme=scheme,
        )
        self.complaints, self.requests = [], []
        page = self._context.new_page()
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(error.message))
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(file.as_uri())

    def value(self, expression: str) -> Any:
        """Return the value of a JavaScript expression."""
        return self._page.evaluate(expression)

    def picture(self) -> np.ndarray[Any, Any]:
        """Return the whole page as uint8 [height, width, 3]."""
        return np.asarray(Image.open(io.BytesIO(self._page.screenshot(full_page=True))).convert("RGB"))

    def send(self, method: str) -> dict[str, Any]:
        """Call a method of the Chrome DevTools protocol."""
        return self._page.context.new_cdp_session(self._page).send(method)

    @property
    def _page(self) -> Page:
        assert self._context is not None
        return self._context.pages[0]
