"""The README, and what holds between the pages."""

import re
from itertools import pairwise

from tests.docs.pages import PAGES, all_pages, name_of
from tests.e2e.support import ROOT

README = (ROOT / "README.md").read_text()


def test_the_readme_is_short():
    assert len(README.splitlines()) < 150


def test_the_readme_has_one_picture():
    assert len(re.findall(r"!\[", README)) == 1


def test_the_readme_has_the_lines_that_ci_runs():
    for name in ("main", "tests"):
        (block,) = re.findall(rf"<!-- ci:{name} -->\n```bash\n(.*?)```\n<!-- /ci -->", README, re.DOTALL)
        assert block.count("\n") == 1, f"one line: {block}"


def test_the_readme_names_all_algorithms():
    from autocompress.algorithms import algorithms

    section = README.split("## Algorithms")[1].split("\n## ")[0]
    assert set(re.findall(r"`([a-z_0-9]+)`", section)) == set(algorithms())


def test_no_text_stands_twice():
    """Sentences and rows of tables, but for code."""
    seen = {}
    for page in all_pages():
        text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        for sentence in re.split(r"(?<=[.:?])\s+|\n\n|\n(?=\|)", text):
            words = " ".join(sentence.split())
            if len(words) > 60 and not words.startswith(("#", "| ---")):
                assert seen.setdefault(words, page) == page, f"{name_of(page)} and {name_of(seen[words])}: {words}"


def test_the_glossary_has_each_term_once_in_order():
    text = (PAGES / "reference" / "glossary.md").read_text()
    terms = [term for line in re.findall(r"^(\S.*)\n:   ", text, re.MULTILINE) for term in line.split(", ")]
    heads = re.findall(r"^(\S.*)\n:   ", text, re.MULTILINE)
    assert len(set(terms)) == len(terms) > 30
    assert all(before.lower() < after.lower() for before, after in pairwise(heads)), heads


def test_names_in_the_glossary_are_in_the_code():
    code = "".join(path.read_text() for path in (ROOT / "autocompress").rglob("*.py"))
    text = (PAGES / "reference" / "glossary.md").read_text()
    names = set(re.findall(r"`([A-Za-z_]+)`", text))
    assert len(names) > 15
    for name in names:
        assert re.search(rf"\b{name}\b", code), f"`{name}` is not in the code"


def test_figures_have_the_command_that_prints_them():
    """A table of numbers stands below a command of a benchmark that is there."""
    for page in all_pages():
        text = page.read_text()
        for name in re.findall(r"python -m (tests\.benchmarks\.\w+)", text):
            place = ROOT / name.replace(".", "/")
            assert place.with_suffix(".py").exists() or (place / "__main__.py").exists(), f"{name_of(page)}: {name}"
        for table in re.finditer(r"(?:^\|.*\n)+", text, re.MULTILINE):
            if len(re.findall(r"\| *\d[\d.,]*[ %|]", table[0])) > 20:
                assert re.search(r"`(python -m tests|autocompress compare)", text[: table.start()]), name_of(page)
