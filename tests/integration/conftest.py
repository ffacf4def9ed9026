"""A headless Chromium, spoken to in its own protocol (DevTools): it can be a phone, and tells what it does."""

from __future__ import annotations

import base64
import fcntl
import io
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pytest
from PIL import Image

PROGRAM = shutil.which("chromium") or shutil.which("google-chrome")
COMPLAINTS = {"Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A real browser; the test skips where there is none."""
    if PROGRAM is None:
        pytest.skip("no chromium on PATH (apt-get install chromium)")
    with Browser() as one:
        yield one


class Browser:
    """One page; a context manager."""

    def __enter__(self) -> Browser:
        self._profile = tempfile.mkdtemp(prefix="shrinkserve-browser-")
        orders, self._to = os.pipe()
        self._from, answers = os.pipe()
        for_child = [fcntl.fcntl(end, fcntl.F_DUPFD, 50) for end in (orders, answers)]  # away from 3 and 4
        os.close(orders)
        os.close(answers)
        command = [
            *(str(PROGRAM), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-pipe"),
            f"--user-data-dir={self._profile}",
        ]
        shell = f'exec "$@" 3<&{for_child[0]} 4>&{for_child[1]}'
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "browser", *command],
            pass_fds=for_child,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in for_child:
            os.close(end)
        self._session, self._sent, self._rest, self.events = "", 0, b"", []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._to)
        os.close(self._from)
        shutil.rmtree(self._profile, ignore_errors=True)

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol; events that come meanwhile are kept."""
        self._sent += 1
        message = {"id": self._sent, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != self._sent:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def show(self, page: Path, width: int, scheme: str) -> None:
        """Load a page in a window of `width` pixels, a phone's below 600, in the "light" or "dark" scheme."""
        self.events.clear()
        phone = width < 600
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1 + phone, mobile=phone
        )
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.send("Page.navigate", url=page.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._receive())

    def value(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        return self.send("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def picture(self) -> np.ndarray[Any, Any]:
        """The whole page, uint8 [height, width, 3]."""
        size = self.send("Page.getLayoutMetrics")["cssContentSize"]
        shot = self.send(
            "Page.captureScreenshot", captureBeyondViewport=True, clip={**size, "x": 0, "y": 0, "scale": 1}
        )
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB"))

    @property
    def complaints(self) -> list[dict[str, Any]]:
        """What the page wrote to the console."""
        return [event for event in self.events if event["method"] in COMPLAINTS]

    @property
    def requests(self) -> list[str]:
        """What the page asked for."""
        return [one["params"]["request"]["url"] for one in self.events if one["method"] == "Network.requestWillBeSent"]

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            more = os.read(self._from, 1 << 20)
            assert more, "the browser has ended"
            self._rest += more
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)
