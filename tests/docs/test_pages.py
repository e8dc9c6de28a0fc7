"""Everything that a page shows as code is of a known kind, and is taken by what reads it."""

import re

import pytest

from tests.docs.pages import KINDS, PAGES, all_pages, blocks, commands, name_of, parse_command, parse_json
from tests.e2e.support import ROOT

ALL = [pytest.param(page, id=name_of(page)) for page in all_pages()]
OTHERS = {"toml"}
"""Languages of which nothing is run."""


@pytest.mark.parametrize("page", ALL)
def test_blocks_are_of_a_known_kind(page):
    for block in blocks(page):
        assert block.language in {*KINDS, *OTHERS}, f"{block}: {block.language!r}"


@pytest.mark.parametrize("page", ALL)
def test_blocks_of_json_are_read(page):
    for block in blocks(page):
        if block.language in ("json", "json5"):
            assert parse_json(block) is not None, block


@pytest.mark.parametrize("page", ALL)
def test_commands_are_taken(page):
    """Those of blocks, and whole ones within sentences."""
    for block in blocks(page):
        if block.language in ("console", "bash"):
            for words in commands(block.text):
                parse_command(words)
    for line in re.findall(r"`(autocompress [^`]+)`", page.read_text()):
        if "..." not in line:
            parse_command(line.split(), partly=True)


def test_commands_are_looked_for():
    """The parser refuses what does not exist."""
    with pytest.raises(Exception, match="No such command"):
        parse_command(["autocompress", "runs", "a.py:A"])
    with pytest.raises(Exception, match="No such option"):
        parse_command(["autocompress", "run", "a.py:A", "--fast"])
    text = "$ pip install autocompress && autocompress status \\\n    DIR &\n"
    assert commands(text) == [["autocompress", "status", "DIR"]]


@pytest.mark.parametrize("page", ALL)
def test_links_within_the_repository_lead_somewhere(page):
    """mkdocs looks at those between pages; the texts at the top are not its own."""
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", without_code(page)):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page}: {target}"


def test_every_page_is_in_the_navigation():
    text = (ROOT / "docs" / "mkdocs.yml").read_text()
    for page in PAGES.rglob("*.md"):
        assert f": {page.relative_to(PAGES)}\n" in text, page


def test_every_picture_is_shown():
    texts = "".join(page.read_text() for page in all_pages())
    for picture in (PAGES / "pictures").iterdir():
        assert f"pictures/{picture.name}" in texts, picture


WORDS = re.compile(r"\b(told|asked|wished|somebody|nobody|whoever)\b", re.IGNORECASE)


@pytest.mark.parametrize("page", ALL)
def test_words_are_those_of_technical_english(page):
    assert not WORDS.findall(without_code(page)), page


def without_code(page):
    return re.sub(r"```.*?```|`[^`]*`", "", page.read_text(), flags=re.DOTALL)
