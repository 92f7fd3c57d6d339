# SPDX-License-Identifier: Apache-2.0
"""A headless Chromium that is driven by W3C WebDriver: the few commands that tests of the page need."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx

from tests.support.peers import require_program
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_ARGUMENTS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
    "--window-size=1000,700",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Browser:
    """One session."""

    http: httpx.Client

    def open(self, url: str) -> None:
        """Go to an address and wait until the page is loaded."""
        self._post("/url", {"url": url})

    def run(self, script: str) -> Any:
        """What a script returns."""
        return self._post("/execute/sync", {"script": script, "args": []})

    def keys(self, *values: str) -> None:
        """Press and release keys."""
        actions = [{"type": kind, "value": value} for value in values for kind in ("keyDown", "keyUp")]
        self._post("/actions", {"actions": [{"type": "key", "id": "keys", "actions": actions}]})

    def wheel(self, x: int, y: int, delta_y: int) -> None:
        """Turn the wheel."""
        action = {"type": "scroll", "x": x, "y": y, "deltaX": 0, "deltaY": delta_y, "duration": 0}
        self._post("/actions", {"actions": [{"type": "wheel", "id": "wheel", "actions": [action]}]})

    def drag(self, x: int, y: int, dx: int, dy: int) -> None:
        """Press the first button, move, release."""
        actions = [
            {"type": "pointerMove", "x": x, "y": y, "duration": 0},
            {"type": "pointerDown", "button": 0},
            {"type": "pointerMove", "x": x + dx, "y": y + dy, "duration": 50},
            {"type": "pointerUp", "button": 0},
        ]
        self._post("/actions", {"actions": [{"type": "pointer", "id": "mouse", "actions": actions}]})

    def click(self, selector: str) -> None:
        """Click on the first element of a CSS selector."""
        element = self._post("/element", {"using": "css selector", "value": selector})
        self._post(f"/element/{next(iter(element.values()))}/click", {})

    def wait(self, script: str, expected: Any) -> None:
        """Wait until a script returns what is expected."""
        wait_until(script, lambda: self.run(script), lambda found: found == expected, timeout_s=10, interval_s=0.05)

    def console(self) -> list[str]:
        """Errors on the console."""
        entries = self._post("/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] == "SEVERE"]

    def _post(self, path: str, content: dict[str, Any]) -> Any:
        """One command."""
        response = self.http.post(path, json=content)
        assert response.status_code == 200, response.text[:1000]
        return response.json()["value"]


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A browser with a profile of its own, ended afterwards."""
    driver = require_program("chromedriver", "chromium-driver")
    chromium = require_program("chromium", "chromium")
    log = folder / "driver.txt"
    with log.open("wb") as output:
        process = subprocess.Popen([driver, "--port=0"], stdout=output, stderr=subprocess.STDOUT)
    try:
        text = wait_until(
            "chromedriver listens",
            lambda: log.read_text(errors="replace"),
            lambda found: "on port " in found.rpartition("success")[2],
        )
        port = int(text.rpartition("on port ")[2].split(".")[0])
        options = {"binary": chromium, "args": [*_ARGUMENTS, f"--user-data-dir={folder / 'profile'}"]}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as http:
            answer = http.post("/session", json={"capabilities": {"alwaysMatch": wanted}})
            assert answer.status_code == 200, answer.text[:1000]
            session = f"http://127.0.0.1:{port}/session/{answer.json()['value']['sessionId']}"
            http.base_url = httpx.URL(session)
            try:
                yield Browser(http)
            finally:
                # By its whole address: below the base a slash is added, and chromedriver does not know that.
                assert http.delete(session).status_code == 200
    finally:
        process.terminate()
        process.wait(timeout=10)
