"""The site as mkdocs builds it, strictly, and as a browser shows it."""

import os
import subprocess
import sys

import pytest

from tests.docs.pages import DOCS, PAGES
from tests.e2e.browser import PHONE, looking
from tests.e2e.support import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture
def site(shared):
    return shared("site", build)


def build(folder):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--no-directory-urls"]
    done = subprocess.run(
        [*command, "-f", DOCS / "mkdocs.yml", "-d", folder],
        env={**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_every_page_is_built(site):
    for page in PAGES.rglob("*.md"):
        html = (site / page.relative_to(PAGES)).with_suffix(".html").read_text()
        assert "<!-- table:" not in html, page
        assert "<!-- api:" not in html, page


@pytest.mark.parametrize("width", [1280, PHONE])
@pytest.mark.parametrize(
    "name", ["index", "tutorials/own_model", "reference/hooks", "reference/settings", "reference/errors"]
)
def test_pages_fit_the_window(site, name, width):
    with looking(site / f"{name}.html", width) as look:
        assert look.width() <= width, "nothing to scroll sideways"
        assert look.page.locator("h1").count() == 1
        for picture in look.page.locator("article img").all():
            assert picture.evaluate("image => image.naturalWidth") > 0, picture
        look.keep(f"docs-{name.replace('/', '-')}-{width}")


def test_pages_ask_no_other_host(site):
    with looking(site / "index.html") as look:
        assert look.hosts <= {"", "localhost"}, look.hosts
