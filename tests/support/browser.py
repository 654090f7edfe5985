"""A real browser for the pages that people look at: the Chromium that is installed, driven by Playwright.

    with browser() as chromium, visit(chromium, url) as visited:
        visited.page.click(...)
    assert (visited.complaints, visited.elsewhere) == ([], [])

Where no Chromium is installed, or it cannot be started here, the test is skipped and says so.
"""

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

FOUND = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@dataclass(slots=True)
class Visited:
    """A page that is open, and what it did that it should not do."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    """Errors and warnings on its console, and exceptions."""
    elsewhere: list[str] = field(default_factory=list)
    """Requests to another origin than its own."""


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """The browser, started."""
    if FOUND is None:
        pytest.skip("no Chromium is installed (Debian: apt install chromium)")
    with sync_playwright() as playwright:
        # Tests run as whoever runs them, often as one for whom Chromium has no sandbox; it sees pages of this repository alone.
        started = playwright.chromium.launch(executable_path=FOUND, args=["--no-sandbox", "--disable-gpu"])
        try:
            yield started
        finally:
            started.close()


@contextlib.contextmanager
def visit(chromium: Browser, url: str, **context: Any) -> Iterator[Visited]:
    """The page at `url`, in a context of its own; `context` is Playwright's."""
    opened = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}} | context)
    opened.set_default_timeout(20_000)
    visited = Visited(opened.new_page())
    own = urlsplit(url).netloc
    visited.page.on("console", lambda said: _note(visited, said.type, said.text))
    visited.page.on("pageerror", lambda error: visited.complaints.append(str(error)))
    visited.page.on(
        "request",
        lambda asked: None if urlsplit(asked.url).netloc in {own, ""} else visited.elsewhere.append(asked.url),
    )
    visited.page.goto(url)
    try:
        yield visited
    finally:
        opened.close()


def _note(visited: Visited, kind: str, text: str) -> None:
    if kind in {"error", "warning"}:
        visited.complaints.append(text)
