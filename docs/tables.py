"""The parts of the reference that come from the code: an mkdocs hook.

It fills `<!-- table: NAME -->` by the function of that name, which returns Markdown, and `<!-- api: MODULE -->` by the
public names of a module. `what it costs` is written here for hooks and settings, and a test requires an entry
for each of them; everything else is read from the package.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, get_type_hints

TABLE = re.compile(r"<!-- table: (\w+) -->")
API = re.compile(r"<!-- api: ([\w.]+) -->")

SOME_NAMES = {
    "autocompress.errors": lambda value: isinstance(value, type),
    "autocompress.records": lambda value: value.__name__ in ("Baseline", "Measurement", "Proposal", "TrialRecord"),
    "autocompress.settings": lambda value: value.__name__ == "AccuracyAwareSettings",
}
"""Which names of a module without `__all__` are public, where not all of them are."""

HOOK_COSTS = {
    "model": "one call in each trial",
    "evaluator": "twice before a search, once for each epoch of a trial, once at the end; by samples once more",
    "optimizer_factory": "nothing by itself",
    "criterion": "nothing by itself",
    "sparsifying_trainer": "`training_epochs` epochs or `training_batches` batches in each trial of algorithms "
    "that need data",
    "post_compress_finetuning_trainer": "most of the search: up to `patience_epochs` epochs in each trial",
    "post_compress_finetuning_epochs": "so many epochs in each trial of tuners other than AdaptiveCompression",
    "example_inputs": "saves one evaluation, from which the inputs are found otherwise",
    "calibration_data": "some forward passes in each trial: BatchNorm's statistics, ranges of quantizers, importances",
    "sensitivity_loss": "one call for each width of each layer, before a search with an allocation by sensitivity",
    "holdout_evaluator": "one evaluation of the uncompressed model and one of the best",
    "lr_scheduler_factory": "nothing by itself",
    "higher_is_better": "nothing",
}

SETTING_COSTS = {
    "maximal_relative_accuracy_degradation": "nothing; a smaller one ends at a lower rate",
    "maximal_absolute_accuracy_degradation": "nothing; a smaller one ends at a lower rate",
    "maximal_total_epochs": "an upper bound on training, for each algorithm",
    "validate_every_n_epochs": "one evaluation every n epochs; with a larger n trials end later",
    "initial_training_phase_epochs": "at most so many epochs, once for each algorithm",
    "patience_epochs": "at most so many epochs in each further trial; trials outside the budget use all of them",
    "initial_compression_rate_step": "a smaller one takes more trials on the way to the answer",
    "compression_rate_step_reduction_factor": "a larger one takes more trials before the search ends",
    "lr_reduction_factor": "nothing",
    "minimal_compression_rate_step": "halving it adds at least one trial for each algorithm",
    "validate_before_training": "one evaluation in each trial; saves all epochs of those that need none",
    "minimal_compression_rate": "nothing",
    "maximal_compression_rate": "nothing; a lower one may end the search earlier",
    "initial_compression_rate": "nothing; far from the answer it takes more trials",
    "warm_start": "nothing; without it trials need more epochs",
    "knowledge_distillation": "a forward pass of the uncompressed model for each batch of training",
    "maximal_trial_seconds": "an upper bound on each trial",
    "preset": "as what it stands for",
    "fine_tuning_schedule": "nothing",
    "learning_rate_factors": "an epoch for each, where there are several",
    "weight_averaging": "an evaluation of each trial, and once more the parameters' memory",
    "confidence": "compression, as margins must be larger",
    "second_chance": "half as many epochs more for a trial that ends just outside",
    "look_beyond": "a trial more for each that ends just outside on the way up",
    "final_training_epochs": "these epochs, once",
    "pruning_steps": "a cut and an evaluation for each step",
    "preflight": "two evaluations and a training step, once",
    "probe_batches": "forward passes before the first trial, where `allocation` needs them, two epochs' time at most",
    "probe_widths": "as many times the passes over those batches, for each layer",
    "seed": "nothing",
}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in what comes from the code; mkdocs calls this."""
    return API.sub(lambda mark: api(mark[1]), TABLE.sub(lambda mark: TABLES[mark[1]](), markdown))


def public_names(module: str) -> list[str]:
    """The public names of a module that have documentation of their own."""
    loaded = importlib.import_module(module)
    names = getattr(loaded, "__all__", None) or [name for name in vars(loaded) if not name.startswith("_")]
    values = {name: getattr(loaded, name) for name in names}
    home = "autocompress" if hasattr(loaded, "__all__") else module
    own = {name: value for name, value in values.items() if _is_of(value, home)}
    is_public = SOME_NAMES.get(module, lambda _: True)
    return [name for name, value in own.items() if is_public(value)]


def _is_of(value: Any, module: str) -> bool:
    return hasattr(value, "__qualname__") and str(value.__module__).startswith(module)


def api(module: str) -> str:
    """A heading and the documentation of each public name of a module."""
    loaded = importlib.import_module(module)
    values = [(name, getattr(loaded, name)) for name in public_names(module)]
    options = "    options:\n      show_root_heading: false\n      show_root_toc_entry: false\n      heading_level: 3"
    return "\n\n".join(f"## {name}\n\n::: {value.__module__}.{value.__qualname__}\n{options}" for name, value in values)


def hooks() -> str:
    """Hooks of AbstractAutoCompressionModule."""
    from autocompress import AbstractAutoCompressionModule as Module

    rows = []
    for name in hook_names():
        attribute = inspect.getattr_static(Module, name)
        if not isinstance(attribute, classmethod):
            what, returns, default = described_attributes(Module)[name], "`bool`", f"`{getattr(Module, name)}`"
        else:
            function = attribute.__func__
            what, returns = _sentence(function.__doc__), _returns(function)
            default = "required" if name in Module.__abstractmethods__ else "`None`"
        rows.append((f"`{name}`", what, returns, default, _needed_by(name), HOOK_COSTS[name]))
    return _table(("hook", "what it is", "returns", "default", "needed by", "what it costs"), rows)


def hook_names() -> list[str]:
    """Names of all hooks in the order of the class."""
    from autocompress import AbstractAutoCompressionModule as Module

    names = [name for name in vars(Module) if not name.startswith("_")]
    return sorted(names, key=lambda name: isinstance(inspect.getattr_static(Module, name), classmethod), reverse=True)


def settings() -> str:
    """Settings of a search."""
    from autocompress.settings import AccuracyAwareSettings as Settings

    described, defaults = described_attributes(Settings), Settings().to_dict()
    rows = []
    for name, field in Settings.model_fields.items():
        default = defaults[name]
        shown = "1.0 where neither is given" if name == "maximal_relative_accuracy_degradation" else _json(default)
        rows.append((f"`{name}`", shown, field.description or "", described[name], SETTING_COSTS[name]))
    return _table(("setting", "default", "allowed", "what it does", "what it costs"), rows)


def distillation() -> str:
    """Keys of the setting `knowledge_distillation`."""
    from autocompress.settings import KnowledgeDistillation

    described = described_attributes(KnowledgeDistillation)
    fields = KnowledgeDistillation.model_fields.items()
    rows = [
        (
            f"`{name}`",
            field.description or "",
            "required" if field.is_required() else _json(field.default),
            described[name],
        )
        for name, field in fields
    ]
    return _table(("key", "allowed", "default", "what it does"), rows)


def algorithms() -> str:
    """All algorithms that come with autocompress."""
    from autocompress.registry import algorithms as known

    rows = []
    for name, algorithm in known().items():
        needs = "; ".join(" or ".join(f"`{hook}`" for hook in group) for group in algorithm.needs)
        rows.append((f"`{name}`", algorithm.kind, _sentence(type(algorithm).__doc__), needs, _cost(algorithm)))
    return _table(("name", "kind", "what it does", "hooks it needs", "what it costs, besides fine-tuning"), rows)


def algorithm_options() -> str:
    """Options of each algorithm, but those that all have."""
    from autocompress.registry import algorithms as known

    common = set(_common_arguments())
    owners: dict[Any, list[str]] = {}
    for name, algorithm in known().items():
        for argument in algorithm.arguments:
            if argument not in common:
                owners.setdefault(argument, []).append(f"`{name}`")
    rows = [(f"`{each.name}`", ", ".join(names), _rule(each), _json(each.default)) for each, names in owners.items()]
    return _table(("option", "algorithms", "allowed", "default"), rows)


def common_options() -> str:
    """Options that all algorithms have."""
    rows = [(f"`{argument.name}`", _rule(argument), _json(argument.default)) for argument in _common_arguments()]
    return _table(("option", "allowed", "default"), rows)


def algorithm_sources() -> str:
    """Where each algorithm comes from."""
    from autocompress.registry import algorithms as known

    return _table(("algorithm", "source"), [(f"`{name}`", source_of(each)) for name, each in known().items()])


def source_of(algorithm: Any) -> str:
    """The papers or programs that an algorithm comes from, as its docstring names them."""
    text = " ".join(inspect.cleandoc(type(algorithm).__doc__ or "").split())
    found = re.search(r"Sources?: (.*)$", text)
    return re.sub(r"arXiv:(\d+\.\d+)", r"[arXiv:\1](https://arxiv.org/abs/\1)", found[1]) if found else ""


def entry_keys() -> str:
    """Keys of an entry of a config list."""
    from autocompress.search_space.space import SELECTORS, VARIABLES

    rows = []
    for key in dict.fromkeys(name for kind in SELECTORS for name in (*SELECTORS[kind], *VARIABLES[kind])):
        kinds = [kind for kind in SELECTORS if key in (*SELECTORS[kind], *VARIABLES[kind])]
        allowed, meaning = ENTRY_KEYS[key]
        rows.append((f"`{key}`", " and ".join(f"{kind}s" for kind in kinds), allowed or _quantizer_rule(key), meaning))
    return _table(("key", "of", "allowed", "what it does"), rows)


ENTRY_KEYS = {
    "op_types": ("list of texts", "layers of these classes; `default`: all that the algorithm supports"),
    "op_names": ("list of texts", "layers of these names; together with `op_types`, those that match both"),
    "quant_types": ("list of `input`, `output`, `weight`", "what is quantized in these layers"),
    "sparsity": ("a number in [0, 1), or values of the types below", "the compression rate of these layers"),
    "exclude": ("true", "these layers stay as they are; stands alone in its entry"),
    "quant_bits": ("", "bits, for all quant types or an object with a value for each"),
    "quant_dtype": ("", "signed or unsigned integers"),
    "quant_scheme": ("", "one scale for a tensor or one for each channel; with a zero point (affine) or without"),
    "quant_start_step": ("", "step of training from which on values are rounded"),
}
"""Allowed values (empty: the code's own rule) and meaning of each key."""


def key_formats() -> str:
    """How keys of a search space are written."""
    from autocompress.search_space.space import ARGUMENT_KEY, FORMATS

    rows = [(f"an entry of a {kind}", f"`{form}`") for kind, form in FORMATS.items()]
    return _table(("variable of", "key"), [*rows, ("the algorithm itself", f"`{ARGUMENT_KEY}::<option>`")])


def value_types() -> str:
    """Types of values that a variable may have."""
    from autocompress.search_space import values

    rows = []
    for kind in values.TYPES:
        layout = ", ".join(values._LAYOUTS.get(kind, ("option", "option", "...")))
        adaptive = values.ValueSpace(kind, _EXAMPLES[kind]).middle()
        rate = "yes" if kind in values.RATE_TYPES else "no"
        rows.append((f"`{kind}`", f"`[{layout}]`", rate, f"`{list(_EXAMPLES[kind])}` is held at `{adaptive:g}`"))
    return _table(("`_type`", "`_value`", "may be a sparsity", "where the adaptive search holds it"), rows)


_EXAMPLES: dict[str, tuple[Any, ...]] = {
    "choice": (4, 8),
    "randint": (1, 10),
    "uniform": (0.2, 0.8),
    "quniform": (0.2, 0.8, 0.1),
    "loguniform": (0.01, 1.0),
    "qloguniform": (1, 100, 5),
    "normal": (0.5, 0.1),
    "qnormal": (0.5, 0.1, 0.1),
    "lognormal": (0.0, 1.0),
    "qlognormal": (0.0, 1.0, 0.5),
}


def commands() -> str:
    """All commands with their arguments and options, from the command line's parser."""
    return "\n\n".join(_command(name, command) for name, command in parser().commands.items() if not command.hidden)


def parser() -> Any:
    """The command line as a group of click."""
    import typer

    from autocompress.cli.__main__ import app

    return typer.main.get_command(app)


def _command(name: str, command: Any) -> str:
    kinds = {each: [p for p in command.params if p.param_type_name == each] for each in ("argument", "option")}
    usage = " ".join(["autocompress", name, *(_value_name(each, command) for each in kinds["argument"]), "[options]"])
    rows = [(_option(each, command), each.help or "", _shown_default(each)) for each in kinds["option"]]
    parts = [f"### {name}", f"`{usage}`", inspect.cleandoc(command.help or "").replace("\b\n", "")]
    return "\n\n".join([*parts, _table(("option", "what it does", "default"), rows)])


def _option(option: Any, command: Any) -> str:
    names = " / ".join([*option.opts, *option.secondary_opts])
    value = "" if option.is_flag else f" {_value_name(option, command)}"
    return (
        f"`{names}{value}`" + (" (required)" if option.required else "") + (" (repeatable)" if option.multiple else "")
    )


def _value_name(parameter: Any, command: Any) -> str:
    """What stands for the value in a command line: the metavar, else the name of the type."""
    if parameter.metavar:
        return str(parameter.metavar)
    hint = str(get_type_hints(command.callback)[parameter.name])
    return next((shown for kind, shown in _VALUE_NAMES.items() if kind in hint), "TEXT")


_VALUE_NAMES = {"int": "N", "float": "X", "Path": "PATH", "str": "NAME"}


def _shown_default(option: Any) -> str:
    return "" if option.default in (None, False, [], ()) or option.required else f"`{option.default}`"


def described_attributes(kind: type) -> dict[str, str]:
    """Name -> description of the attributes that a class and its bases describe in their docstrings."""
    from griffe import Docstring, DocstringSectionAttributes

    found = {}
    for base in reversed(kind.__mro__):
        text = base.__dict__.get("__doc__") or ""
        for section in Docstring(inspect.cleandoc(text), parser="google").parsed:
            if isinstance(section, DocstringSectionAttributes):
                found |= {each.name: " ".join(each.description.split()) for each in section.value}
    return found


def _common_arguments() -> list[Any]:
    from autocompress.registry import algorithms as known

    first, *others = (algorithm.arguments for algorithm in known().values())
    return [argument for argument in first if all(argument in other for other in others)]


def _cost(algorithm: Any) -> str:
    arguments = {argument.name for argument in algorithm.arguments}
    if "training_epochs" in arguments:
        return "`training_epochs` epochs in each trial"
    if "training_batches" in arguments:
        trains = ("optimizer_factory",) in algorithm.needs
        return f"{'gradients of' if trains else 'forward passes of'} `training_batches` batches in each trial"
    return "some forward passes, to set ranges" if algorithm.needs else "nothing"


def _rule(argument: Any) -> str:
    return str(argument.rule).replace("'", "`")


def _quantizer_rule(name: str) -> str:
    from autocompress.search_space import values

    argument = values._RULES[name]
    if name == "quant_bits":
        return f"a whole number from {argument.options[0]} to {argument.options[-1]}"
    return _rule(argument)


def _needed_by(hook: str) -> str:
    from autocompress.registry import algorithms as known

    names = [name for name, algorithm in known().items() if any(hook in group for group in algorithm.needs)]
    return ", ".join(f"`{name}`" for name in names)


def _returns(function: Callable[..., Any]) -> str:
    annotation = str(inspect.signature(function).return_annotation)
    return f"`{annotation.removesuffix(' | None')}`"


def _sentence(docstring: str | None) -> str:
    """The first paragraph of a docstring on one line."""
    return " ".join(inspect.cleandoc(docstring or "").split("\n\n")[0].split())


def _json(value: Any) -> str:
    import json

    return f"`{json.dumps(list(value) if isinstance(value, tuple) else value)}`"


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(text: str) -> str:
    """Text that is safe in a table: no column ends in it, and only code has angle brackets."""
    parts = text.split("`")
    parts[::2] = [part.replace("<", "&lt;").replace("|", "\\|") for part in parts[::2]]
    return "`".join(parts)


def models() -> str:
    """What the zoo of models found: `tests/benchmarks/models`."""
    folder = Path(__file__).parents[1] / "tests" / "benchmarks" / "models"
    spec = importlib.util.spec_from_file_location("zoo_tables", folder / "table.py")
    assert spec is not None
    assert spec.loader is not None
    table = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(table)
    return str(table.page(json.loads((folder / "results.json").read_text())))


TABLES: dict[str, Callable[[], str]] = {
    function.__name__: function
    for function in (
        hooks,
        settings,
        distillation,
        algorithms,
        algorithm_options,
        common_options,
        algorithm_sources,
        entry_keys,
        key_formats,
        value_types,
        commands,
        models,
    )
}
