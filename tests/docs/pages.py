"""What the pages show as code: found, and run as a reader would run it.

A block is of one of these kinds:

    python                     run in the page's own namespace, one block after the other
    python title="NAME.py"     a file in the reader's folder
    json, json5 [title=...]    a search space or an NNCF-style configuration, parsed; with a title also a file
    console                    `$ COMMAND` lines, parsed, and run where the page is a tutorial; other lines are output
    bash                       commands to copy, parsed
    text                       output
"""

import contextlib
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import json5
from markdown_it import MarkdownIt

from autocompress import registry
from tests.e2e.support import ROOT, free_port

DOCS = ROOT / "docs"
PAGES = DOCS / "pages"
PRELUDES = Path(__file__).parent / "preludes"
KINDS = ("python", "json", "json5", "console", "bash", "text")
COMMAND = re.compile(r"(?:^\$ |^|&& )(autocompress [^\n\\]*(?:\\\n[^\n\\]*)*)", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its title, its text, and the line of the page on which its text begins."""

    page: Path
    language: str
    title: str
    text: str
    line: int

    def __str__(self):
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def all_pages():
    """Every page, and the texts at the top of the repository."""
    return [*sorted(PAGES.rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]


def name_of(page):
    """A page as `tutorials/report`, for the ids of tests."""
    within = page.relative_to(PAGES) if page.is_relative_to(PAGES) else page.relative_to(ROOT)
    return str(within.with_suffix(""))


def blocks(page):
    """The fenced blocks of a page in their order."""
    found = []
    for token in MarkdownIt("commonmark").parse(page.read_text()):
        if token.type == "fence":
            language, _, rest = token.info.strip().partition(" ")
            title = re.search(r'title="([^"]+)"', rest)
            found.append(Block(page, language, title[1] if title else "", token.content, token.map[0] + 2))
    return found


def commands(text):
    """The command lines of autocompress in a block, as lists of words."""
    joined = [line.replace("\\\n", " ") for line in COMMAND.findall(text)]
    split = [shlex.split(line.partition(" && ")[0], comments=True) for line in joined]
    return [[word for word in words if word != "&"] for words in split]


def parse_command(words, *, partly=False):
    """Let the command line's own parser take it; nothing is run.

    Args:
        words: of the line, `autocompress` first.
        partly: arguments may be missing, as in a sentence that names a command.
    """
    import typer

    from autocompress.cli.__main__ import app

    group, given = typer.main.get_command(app), [word for word in words[1:] if word != "--help"]
    if not given:
        return None
    context = group.make_context("autocompress", given)
    name, command, rest = group.resolve_command(context, [*context._protected_args, *context.args])
    try:
        command.make_context(name, list(rest), parent=context)
    except Exception as error:
        if not (partly and type(error).__name__ == "MissingParameter"):
            raise
    return name


def parse_json(block):
    """A search space or a configuration, by the parser that reads it."""
    from autocompress.nncf import CompressionConfig
    from autocompress.search_space import load_search_space

    data = json5.loads(block.text)
    if "algorithm_name" in data:
        return load_search_space(json.loads(block.text))
    return CompressionConfig.from_dict(data)


class Reader:
    """Does what a page says, in a folder.

    Args:
        folder: their working directory.
        replaced: texts that stand for what each reader has of their own, such as the name of a machine.
        runs_commands: whether lines with `$` are run.
    """

    def __init__(self, folder, replaced=None, *, runs_commands=True):
        self.folder, self.runs_commands = folder, runs_commands
        self.replaced = {"8080": str(free_port()), **(replaced or {})}
        self.namespace = {"__name__": "__docs__"}
        self.started, self.output = [], ""

    def read(self, page):
        """Do all that a page shows.

        Raises:
            AssertionError: a command failed; any error of a block of Python.
        """
        with self._in_folder():
            prelude = PRELUDES / f"{name_of(page).replace('/', '_')}.py"
            if prelude.exists():
                self._run(prelude.read_text(), prelude, 0)
            for block in blocks(page):
                self._do(block)

    def _do(self, block):
        text = self._mine(block.text)
        if block.title:
            (self.folder / block.title).write_text(text)
        elif block.language == "python":
            self._run(text, block.page, block.line - 1)
        elif block.language == "console" and self.runs_commands:
            for line in re.findall(r"^\$ ([^\n\\]*(?:\\\n[^\n\\]*)*)", text, re.MULTILINE):
                self.started.append((f"{block}: {line}", self._start(line)))
                if not line.endswith("&"):
                    self._wait()
            self._wait()

    def _run(self, text, path, line):
        """Errors name the line of the page."""
        exec(compile("\n" * line + text, str(path), "exec"), self.namespace)

    def _start(self, line):
        words = shlex.split(line.replace("\\\n", " ").removesuffix("&"), comments=True)
        python = {"python": [sys.executable], "autocompress": [sys.executable, "-m", "autocompress.cli"]}
        command = [*python[words[0]], *words[1:]]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=self.folder, **pipes)

    def _wait(self):
        """For all commands that were started."""
        while self.started:
            line, process = self.started[0]
            out, errors = process.communicate(timeout=500)
            self.started.pop(0)
            assert process.returncode == 0, f"{line}\n{out[-2000:]}{errors[-3000:]}"
            self.output += out

    def _mine(self, text):
        for theirs, mine in self.replaced.items():
            text = text.replace(theirs, mine)
        return text

    @contextlib.contextmanager
    def _in_folder(self):
        """The folder is the working directory; what was imported from it, registered and started is gone afterwards."""
        known, algorithms = set(sys.modules), registry.algorithms()
        sys.path.insert(0, str(self.folder))
        importlib.invalidate_caches()
        try:
            with _working_in(self.folder):
                yield
        finally:
            for _, process in self.started:
                process.kill()
            for name in set(registry._known) - set(algorithms):
                del registry._known[name]
            sys.path.remove(str(self.folder))
            for name in set(sys.modules) - known:
                if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(self.folder)):
                    del sys.modules[name]


@contextlib.contextmanager
def _working_in(folder):  # contextlib.chdir came with Python 3.11
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
