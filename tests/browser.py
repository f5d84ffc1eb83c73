"""A real browser for tests of pages, where one is at hand."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def chromium() -> Iterator[Any]:
    """Chromium without a window, driven by playwright; the test is skipped where either is missing."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install 'autocompress[browser]'")
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    with playwright.sync_playwright() as driver:
        path = path or driver.chromium.executable_path
        if not os.path.isfile(path):
            pytest.skip("no chromium: apt-get install chromium, or playwright install chromium")
        # In a container it runs as root, which its sandbox does not.
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()
