"""A Chromium that Playwright drives, or a skip with its reason."""

import os
import shutil
from collections.abc import Iterator
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
