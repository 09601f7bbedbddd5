"""A headless Chromium that a test drives over its DevTools protocol: pages, keys, sizes, pictures."""

import asyncio
import base64
import os
import shutil
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
START_S = 30.0
CALL_S = 30.0
PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
DESKTOP = {"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": False}
KEYS = {"Tab": 9, "Enter": 13, " ": 32}


def chromium() -> str:
    """The browser of this machine."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    assert found, "no Chromium here: install the Debian package `chromium`; this test is not skipped without it"
    return found


class Page:
    """One tab."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._number = 0
        self.console: list[str] = []

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command and its result; what the page logs meanwhile is kept."""
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": parameters})
        async with asyncio.timeout(CALL_S):
            while True:
                answer: dict[str, Any] = await self._socket.receive_json()
                said = answer.get("params", {})
                if answer.get("method") == "Runtime.exceptionThrown" or said.get("entry", {}).get("level") == "error":
                    self.console.append(str(said))
                if answer.get("id") == self._number:
                    assert "error" not in answer, answer
                    result: dict[str, Any] = answer["result"]
                    return result

    async def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        answer = await self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def until(self, script: str, seconds: float = 20.0) -> Any:
        """Wait for an expression to be true, over page loads too."""
        end = time.monotonic() + seconds
        while True:
            answer = await self.call("Runtime.evaluate", expression=f"Boolean({script})", returnByValue=True)
            value = answer["result"].get("value") if "exceptionDetails" not in answer else None
            if value:
                return value
            assert time.monotonic() < end, (
                f"not within {seconds} s: {script}\n{await self.run('document.body.innerText')}"
            )
            await asyncio.sleep(0.05)

    async def open(self, url: str) -> None:
        """Load a page, to its end."""
        await self.call("Page.navigate", url=url)
        await self.until(f"document.readyState === 'complete' && location.href.startsWith({url!r})")

    async def press(self, key: str, times: int = 1) -> None:
        """A key on the keyboard."""
        code = KEYS.get(key, 0)
        for _ in range(times):
            text = {"Enter": "\r", " ": " "}.get(key, "")
            await self.call("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, text=text)
            await self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    async def type(self, text: str) -> None:
        """Text into what has the focus."""
        await self.call("Input.insertText", text=text)

    async def size(self, screen: Mapping[str, Any]) -> None:
        """Be a phone or a desktop."""
        await self.call("Emulation.setDeviceMetricsOverride", **screen)

    async def picture(self, path: Path) -> None:
        """The whole page as it looks."""
        shot = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        await asyncio.to_thread(path.write_bytes, base64.b64decode(shot["data"]))


@asynccontextmanager
async def browsing(profile: Path, language: str = "en") -> AsyncIterator[Page]:
    """A browser with one empty tab, which speaks this language and reaches this machine alone."""
    process = await asyncio.create_subprocess_exec(
        *[
            chromium(), "--headless", "--disable-gpu", "--no-first-run", "--disable-background-networking",
            "--disable-component-update", "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            *(["--no-sandbox"] if os.geteuid() == 0 else []), "--remote-debugging-port=0",
            f"--user-data-dir={profile}", "about:blank",
        ],
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        port = await _port(profile / "DevToolsActivePort")
        async with aiohttp.ClientSession() as http:
            tabs = await (await http.get(f"http://127.0.0.1:{port}/json")).json()
            url = next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
            async with http.ws_connect(url, max_msg_size=64 << 20) as socket:
                page = Page(socket)
                for domain in ("Page", "Runtime", "Log", "Network"):
                    await page.call(f"{domain}.enable")
                await page.call("Network.setExtraHTTPHeaders", headers={"Accept-Language": language})
                yield page
    finally:
        process.terminate()
        await asyncio.wait_for(process.wait(), START_S)


async def _port(path: Path) -> int:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        lines = await asyncio.to_thread(lambda: path.read_text().splitlines() if path.exists() else [])
        if len(lines) == 2:
            return int(lines[0])
        await asyncio.sleep(0.05)
    raise AssertionError("Chromium did not start")
