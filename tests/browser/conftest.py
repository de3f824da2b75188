"""A Chromium that Playwright drives, or a skip with its reason; and pages opened in it."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CANDIDATES = ("chromium", "chromium-browser", "google-chrome")

ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def find_chromium() -> str | None:
    """Return the browser to drive: LOADTUNE_CHROMIUM, or the first that the PATH holds."""
    return os.environ.get("LOADTUNE_CHROMIUM") or next(filter(None, map(shutil.which, CANDIDATES)), None)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """One browser for all tests."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    executable = find_chromium()
    if executable is None:
        pytest.skip(f"no Chromium: set LOADTUNE_CHROMIUM, or put one of {', '.join(CANDIDATES)} on the PATH")
    with playwright.sync_playwright() as driver:
        launched = driver.chromium.launch(executable_path=executable, args=list(ARGUMENTS))
        yield launched
        launched.close()


class Complaints(list[str]):
    """What a page logged, threw, or asked of the network."""


@pytest.fixture
def open_page(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Open a page in a fresh profile; its complaints are read from `page.complaints`."""
    contexts = []

    def open_one(source: str, width_px: int = 1280, **options: Any) -> Any:
        path = tmp_path / f"{len(contexts)}.html"
        path.write_text(source, encoding="utf-8")
        context = browser.new_context(viewport={"width": width_px, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.complaints = Complaints()
        page.on("console", lambda message: page.complaints.append(message.text))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on(
            "request",
            lambda request: None if request.url == path.as_uri() else page.complaints.append(request.url),
        )
        page.goto(path.as_uri())
        return page

    yield open_one
    for context in contexts:
        context.close()
