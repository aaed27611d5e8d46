"""A headless browser that tests talk to through its pipe: no driver, no port, no package."""

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"


class Tab:
    """A page that is open.

    Attributes:
        requests: addresses that it asked for, but those of files and data.
        mistakes: what its console told as errors, and what was thrown.
    """

    def __init__(self, to: int, back: int) -> None:
        self._to, self._back, self._rest = to, back, b""
        self._number = 0
        self._session: str | None = None
        self._answers: dict[int, dict[str, Any]] = {}
        self._seen: set[str] = set()
        self.requests: list[str] = []
        self.mistakes: list[str] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self.ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **values: Any) -> dict[str, Any]:
        """A command of the DevTools protocol, and its result."""
        self._number += 1
        own = self._number
        message = {"id": own, "method": method, "params": values}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + 60
        while own not in self._answers:
            self._read(deadline)
        answer = self._answers.pop(own)
        assert "error" not in answer, (method, answer)
        found: dict[str, Any] = answer["result"]
        return found

    def _read(self, deadline: float) -> None:
        ready, _, _ = select.select([self._back], [], [], max(0, deadline - time.monotonic()))
        assert ready, "the browser does not answer"
        chunk = os.read(self._back, 1 << 20)
        assert chunk, "the browser has ended"
        *messages, self._rest = (self._rest + chunk).split(b"\0")
        for text in messages:
            message = json.loads(text)
            if "id" in message:
                self._answers[message["id"]] = message
            else:
                self._note(message["method"], message.get("params", {}))

    def _note(self, event: str, values: dict[str, Any]) -> None:
        self._seen.add(event)
        if event == "Network.requestWillBeSent":
            address = values["request"]["url"]
            if not address.startswith(("file:", "data:", "blob:", "about:")):
                self.requests.append(address)
        elif event == "Runtime.exceptionThrown":
            self.mistakes.append(json.dumps(values["exceptionDetails"]))
        elif event == "Runtime.consoleAPICalled" and values["type"] in ("error", "warning"):
            self.mistakes.append(json.dumps(values["args"]))
        elif event == "Log.entryAdded" and values["entry"]["level"] in ("error", "warning"):
            self.mistakes.append(values["entry"]["text"])

    def open(self, page: Path, width: int = 1400, height: int = 1000, dark: bool = False) -> None:
        """Open a file and wait until it is loaded."""
        scheme = "dark" if dark else "light"
        self.ask(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )
        self.size(width, height)
        self._seen.discard("Page.loadEventFired")
        self.ask("Page.navigate", url=page.resolve().as_uri())
        deadline = time.monotonic() + 60
        while "Page.loadEventFired" not in self._seen:
            self._read(deadline)

    def size(self, width: int, height: int) -> None:
        """Set the size of the window."""
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        found = self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, condition: str, seconds: float = 30) -> None:
        """Wait until an expression is true."""
        deadline = time.monotonic() + seconds
        while not self.run(condition):
            assert time.monotonic() < deadline, f"never came true: {condition}"
            time.sleep(0.1)

    def press(self, key: str, code: int, text: str = "") -> None:
        """Press a key on what has the focus; `text` is what it types, as "\\r" for Enter."""
        own = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        typed = {"type": "keyDown", "text": text} if text else {"type": "rawKeyDown"}
        self.ask("Input.dispatchKeyEvent", **own, **typed)
        self.ask("Input.dispatchKeyEvent", **own, type="keyUp")

    def shoot(self, file: Path) -> None:
        """Take a picture of the window."""
        file.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot")["data"]))


@contextlib.contextmanager
def browser(folder: Path) -> Iterator[Tab]:
    """A browser with one tab; the test is skipped where there is none.

    Args:
        folder: for what the browser keeps.
    """
    if not Path(CHROMIUM).is_file():
        pytest.skip("there is no Chromium on this machine (apt install chromium)")
    # The browser reads commands from its descriptor 3 and answers on 4.
    theirs_in, to = os.pipe()
    back, theirs_out = os.pipe()
    pair = f'exec 3<&{theirs_in} 4>&{theirs_out}; exec "$@"'
    process = subprocess.Popen(
        ["bash", "-c", pair, "chromium", CHROMIUM, "--headless=new", "--no-sandbox",
         "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--no-first-run",
         "--disable-background-networking", "--disable-component-update",
         f"--user-data-dir={folder / 'chromium'}", "--remote-debugging-pipe"],
        pass_fds=(theirs_in, theirs_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        yield Tab(to, back)
    finally:
        os.close(to)
        os.close(back)
        process.terminate()
        process.wait(20)
