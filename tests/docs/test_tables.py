"""What the reference takes from the code is all there, and says of each thing what it is."""

import dataclasses
import importlib.util
import inspect
import re

import pytest

from autocompress import AbstractAutoCompressionModule, AutoCompressionSearchSpaceGenerator, register_algorithm
from autocompress.algorithms import FilterPruner, algorithms
from autocompress.layer_selector import LayerSelector
from autocompress.registry import _known
from autocompress.search_space import load_search_space
from autocompress.search_space.space import FORMATS, SELECTORS, VARIABLES
from autocompress.search_space.values import TYPES
from autocompress.settings import AccuracyAwareSettings, KnowledgeDistillation
from tests.docs.pages import DOCS, PAGES, blocks

spec = importlib.util.spec_from_file_location("docs_tables", DOCS / "tables.py")
tables = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tables)


def rows(text):
    """First cell -> all cells of a Markdown table, whose cells may hold escaped bars."""
    lines = [re.split(r"(?<!\\) \| ", line.strip("| ")) for line in text.splitlines() if line.startswith("|")]
    widths = {len(cells) for cells in lines}
    assert len(widths) == 1, f"rows of {widths} cells"
    return {re.sub(r"[`]|\(.*", "", cells[0]): cells for cells in lines[2:]}


def test_all_hooks_are_there():
    hooks = {name for name in vars(AbstractAutoCompressionModule) if not name.startswith("_")}
    table = rows(tables.hooks())
    assert set(table) == hooks == set(tables.HOOK_COSTS)
    for cells in table.values():
        assert all(cell.strip() for cell in cells[:4] + cells[5:]), cells
    assert {name for name, cells in table.items() if cells[3] == "required"} == {"model", "evaluator"}
    assert "`qat`" in table["calibration_data"][4]


def test_all_settings_are_there():
    table = rows(tables.settings())
    assert set(table) == set(AccuracyAwareSettings.model_fields) == set(tables.SETTING_COSTS)
    assert all(cell.strip() for cells in table.values() for cell in cells), table
    settings = AccuracyAwareSettings()
    assert table["patience_epochs"][1] == f"`{settings.patience_epochs}`"
    assert table["minimal_compression_rate_step"][2] == "a finite number > 0"
    assert set(rows(tables.distillation())) == set(KnowledgeDistillation.model_fields)


def test_all_algorithms_are_there():
    table, sources = rows(tables.algorithms()), rows(tables.algorithm_sources())
    assert set(table) == set(sources) == set(algorithms())
    for name, algorithm in algorithms().items():
        cells = table[name]
        assert cells[1] == algorithm.kind
        assert all(f"`{hook}`" in cells[3] for group in algorithm.needs for hook in group), cells
        assert sources[name][1].strip(), f"{name} has no source"


def test_all_options_of_algorithms_are_there():
    text = tables.algorithm_options() + tables.common_options()
    for name, algorithm in algorithms().items():
        for argument in algorithm.arguments:
            lines = [line for line in text.splitlines() if line.startswith(f"| `{argument.name}`")]
            mine = [line for line in lines if f"`{name}`" in line] or lines
            assert any(argument.rule.split()[-1].strip("'") in line for line in mine), f"{name}.{argument.name}"


def test_an_algorithm_that_is_registered_is_there():
    class Newcomer(FilterPruner):
        """Removes filters at random.

        Source: a dice.
        """

        name = "newcomer"

    register_algorithm(Newcomer())
    try:
        assert rows(tables.algorithms())["newcomer"][2] == "Removes filters at random."
        assert rows(tables.algorithm_sources())["newcomer"][1] == "a dice."
    finally:
        del _known["newcomer"]


def test_all_keys_of_search_spaces_are_there():
    keys = {name for kind in SELECTORS for name in (*SELECTORS[kind], *VARIABLES[kind])}
    table = rows(tables.entry_keys())
    assert set(table) == keys
    assert {field.name for field in dataclasses.fields(LayerSelector)} <= set(table)
    assert table["exclude"][1] == "pruners and quantizers"
    assert table["sparsity"][1] == "pruners"
    assert all(f"`{form}`" in tables.key_formats() for form in FORMATS.values())
    assert set(rows(tables.value_types())) == set(TYPES)


def test_the_page_of_the_format_shows_what_the_generator_makes(tmp_path, monkeypatch):
    """Its first block of JSON is what its first block of Python makes."""
    shown = {block.language: block.text for block in reversed(blocks(PAGES / "reference/search_space.md"))}
    namespace = {}
    monkeypatch.chdir(tmp_path)
    exec(shown["python"], namespace)
    made = load_search_space(namespace["search_space"])
    assert load_search_space("space.json").wire == made.wire
    assert made.wire == load_search_space(importlib.import_module("json").loads(shown["json"])).wire
    assert isinstance(namespace["generator"], AutoCompressionSearchSpaceGenerator)


def test_all_commands_and_options_are_there():
    text = tables.commands()
    for name, command in tables.parser().commands.items():
        section = text.split(f"### {name}\n")[1].split("\n### ")[0]
        for parameter in command.params:
            shown = parameter.metavar if parameter.param_type_name == "argument" else parameter.opts[0]
            assert shown in section, f"{name}: {parameter.name}"
            assert parameter.help or parameter.param_type_name == "argument", f"{name}: {parameter.name} has no help"


@pytest.mark.parametrize("path", sorted((PAGES / "reference" / "api").glob("*.md")), ids=lambda path: path.stem)
def test_the_api_is_of_public_names(path):
    modules = tables.API.findall(path.read_text())
    assert modules
    for module in modules:
        assert tables.public_names(module), module
        for name in tables.public_names(module):
            assert f"## {name}\n" in tables.api(module)
            assert inspect.getdoc(getattr(importlib.import_module(module), name)), f"{module}.{name} has no docstring"


def test_every_table_is_shown():
    texts = "".join(page.read_text() for page in PAGES.rglob("*.md"))
    assert set(tables.TABLE.findall(texts)) == set(tables.TABLES)
    filled = tables.on_page_markdown("<!-- table: settings -->\n<!-- api: autocompress.optuna -->")
    assert "`patience_epochs`" in filled
    assert "## CompressionStudy" in filled
    assert "<!--" not in filled
