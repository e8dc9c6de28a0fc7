"""Chromium, looking at pages; what it complains of and whom it asks is written down."""

import contextlib
import os
import shutil
from pathlib import Path
from urllib.parse import urlparse

from playwright.sync_api import sync_playwright

from tests.e2e.support import skip

_OPTIONS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
DESKTOP, PHONE = 1280, 390


class Look:
    """A page that is open.

    Attributes:
        page: Playwright's.
        complaints: errors on its console and exceptions of its scripts.
        hosts: of all requests; empty for files.
    """

    def __init__(self, page):
        self.page = page
        self.complaints, self.hosts = [], set()
        page.on("console", lambda message: message.type == "error" and self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self._note(request.url))

    def _note(self, url):
        parsed = urlparse(url)
        if parsed.scheme not in ("data", "blob"):
            self.hosts.add(parsed.hostname or "")

    def width(self):
        """Of what there is to scroll, in pixels."""
        return self.page.evaluate("document.documentElement.scrollWidth")

    def keep(self, name):
        """A picture of the whole page, where CI keeps them."""
        folder = os.environ.get("AUTOCOMPRESS_SCREENSHOTS")
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


@contextlib.contextmanager
def looking(url, width=DESKTOP, scheme="light"):
    """Open a page, or a file."""
    executable = shutil.which("chromium") or skip("needs Chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=_OPTIONS)
        try:
            page = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme).new_page()
            look = Look(page)
            page.goto(url if "://" in str(url) else Path(url).as_uri())
            yield look
        finally:
            browser.close()
