"""Pages in a headless Chromium: opened from disk, watched for errors, without network."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from chemloop.report.data import ReportData
from chemloop.report.demonstration import demonstration
from chemloop.report.page import write_report

NAMES = "chromium chromium-browser google-chrome"
# As root there is no sandbox; the others keep Chromium from calling home.
OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

PATIENCE_MS = 120_000  # on a machine that is busy with other things
expect.set_options(timeout=PATIENCE_MS)


@dataclass
class Opened:
    """A page and what went wrong on it."""

    page: Page
    complaints: list[str] = field(default_factory=list)

    def run(self, script: str, argument: Any = None) -> Any:
        return self.page.evaluate(script, argument)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    found = [path for name in os.environ.get("CHROMIUM", NAMES).split() if (path := shutil.which(name))]
    if not found:
        pytest.fail("these tests need Chromium: make browser, or sudo apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found[0], args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def open_page(chromium) -> Iterator[Callable[..., Opened]]:
    """open_page(path, width=1280, **options of the context): the page once all its figures are drawn."""
    contexts: list[BrowserContext] = []

    def opened(path: Path, width: int = 1280, height: int = 900, script: str = "", **options: Any) -> Opened:
        context = chromium.new_context(viewport={"width": width, "height": height}, offline=True, **options)
        contexts.append(context)
        context.set_default_timeout(PATIENCE_MS)
        if script:
            context.add_init_script(script)
        made = Opened(context.new_page())
        made.page.on("console", lambda message: message.type in ("error", "warning") and note(made, message.text))
        made.page.on("pageerror", lambda error: note(made, str(error)))
        made.page.on("request", lambda request: check_address(made, request.url))
        made.page.goto(path.as_uri())
        made.page.wait_for_function("document.body.dataset.state")
        return made

    yield opened
    for context in contexts:
        context.close()


def note(opened: Opened, complaint: str) -> None:
    opened.complaints.append(complaint)


def check_address(opened: Opened, address: str) -> None:
    if not address.startswith(("file:", "blob:", "data:")):
        note(opened, f"request of {address}")


@pytest.fixture(scope="session")
def data() -> ReportData:
    return demonstration(120)


@pytest.fixture(scope="session")
def report(data, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(data, path)
    return path
