"""Options that several commands have, and the search space and settings that they stand for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autocompress.budget import AccuracyBudget
from autocompress.errors import ConfigError, unknown_name
from autocompress.plain_json import parse
from autocompress.registry import algorithm, load_if_unknown
from autocompress.search_space import SearchSpace, SearchSpaceSource, default_space
from autocompress.search_space.space import algorithm_names
from autocompress.settings import AccuracyAwareSettings

if TYPE_CHECKING:
    from autocompress.compression.module_loading import ModuleReference


Module = Annotated[str, typer.Argument(metavar="FILE:CLASS", help="Your module, or package.module:CLASS.")]
Directory = Annotated[Path, typer.Argument(metavar="DIR", help="The experiment's directory.")]
Target = Annotated[Path, typer.Argument(metavar="PATH", help="The file, or the directory, to write.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Port = Annotated[
    int | None,
    typer.Option(min=1, max=65535, help="Port of the web page on 127.0.0.1. Default: 8080, if taken a free one."),
]
Storage = Annotated[
    str | None, typer.Option(metavar="URL", help="Optuna's storage. Default: a SQLite file in the directory.")
]
Study = Annotated[str | None, typer.Option(metavar="NAME", help="Optuna's study. Default: the class' name.")]
Artefacts = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Where workers on other machines find checkpoints; any fsspec address."),
]
Algorithms = Annotated[
    list[str] | None,
    typer.Option(
        "--algorithm",
        metavar="NAME",
        help="l2, fpgm, qat, ..., or a mix such as l2+qat, on all layers; more than once: searched side by side.",
    ),
]
Rates = Annotated[
    list[str] | None,
    typer.Option(
        "--rate",
        metavar="LOW:HIGH",
        help="Range of compression rates of --algorithm; once for all, or once for each. Default: 0:0.95.",
    ),
]
SearchSpaceFile = Annotated[
    Path | None, typer.Option("--search-space", metavar="FILE", help="The search space as NNI's JSON, instead.")
]
Config = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="An NNCF-style configuration: search space, settings and budget, instead."),
]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Any setting, such as patience_epochs=5; more than once. `autocompress settings` lists them.",
    ),
]
RelativeDrop = Annotated[
    float | None, typer.Option(metavar="P", help="Tolerated loss in percent of the uncompressed accuracy. [1.0]")
]
AbsoluteDrop = Annotated[
    float | None, typer.Option(metavar="X", help="Tolerated loss in the evaluator's unit, instead.")
]
Yes = Annotated[bool, typer.Option("--yes", help="The budget is meant, even below .05 % or above 50 %.")]
NoPreflight = Annotated[
    bool, typer.Option("--no-preflight", help="Search a module that the preflight refuses; its warnings go too.")
]
Objective = Annotated[
    str | None,
    typer.Option(help="Trials are compared by: rate (one algorithm), size (several), parameters, macs, latency."),
]
EngineName = Annotated[
    str, typer.Option("--engine", help="nni; without a web page: optuna, any storage; nni-tuner; local, one process.")
]
Out = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Where to keep it. Default: autocompress-out/<class>-<time>.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print nothing but the result.")]
Track = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=WHERE", help="Log to tensorboard=DIR, mlflow=URI or wandb=PROJECT; more than once."),
]
Debug = Annotated[bool, typer.Option("--debug", help="Print the traceback of an error, causes included.")]


_RELATIVE = ("--max-relative-drop", "maximal_relative_accuracy_degradation")
_ABSOLUTE = ("--max-absolute-drop", "maximal_absolute_accuracy_degradation")
_HIGHEST = "maximal_compression_rate"


def search_space_of(
    names: Sequence[str] | None,
    rates: Sequence[str] | None,
    file: Path | None,
    config: Path | None = None,
    *,
    module: ModuleReference | None = None,
) -> SearchSpaceSource | None:
    """The search space of --algorithm and --rate, --search-space or --config; None where none of them is given.

    Args:
        names: of the algorithms.
        rates: `LOW:HIGH` of each of them that has a compression rate, in order, or one for all.
        file: NNI's JSON.
        config: an NNCF-style configuration.
        module: loaded where a name is unknown without it, as its file may register algorithms.

    Raises:
        ConfigError: two of them are given, or a name or a range breaks a rule.
    """
    given = {"--algorithm": names, "--search-space": file, "--config": config}
    several = [option for option, value in given.items() if value]
    if len(several) > 1:
        raise ConfigError(f"only one of {', '.join(given)} must be given; got {' and '.join(several)}")
    if rates and not names:
        raise ConfigError(f"--rate must be given together with --algorithm; got --rate {rates[0]} alone")
    if names:
        return space_of_algorithms(names, rates or (), module)
    if config is not None:
        from autocompress.nncf.config import CompressionConfig
        from autocompress.nncf.translation import search_space_of

        return search_space_of(CompressionConfig.from_json(config))
    if file is None:
        return None
    if module is not None:
        load_if_unknown(_names_in_file(file), module.load)
    return str(file)


def required_search_space(source: SearchSpaceSource | None, *options: str) -> SearchSpaceSource:
    """The search space.

    Raises:
        ConfigError: none was given; naming the options that give one.
    """
    if source is None:
        raise ConfigError(f"{' or '.join(options)} must be given; none is")
    return source


def space_of_algorithms(names: Sequence[str], rates: Sequence[str], module: ModuleReference | None) -> SearchSpace:
    """The search space of algorithms on all layers.

    Raises:
        ConfigError: a name is unknown or given twice, a range is none, or there are more ranges than algorithms.
    """
    if module is not None:
        load_if_unknown(names, module.load)
    try:
        with_rate = [name for name in names if algorithm(name).kind != "quantizer"]
        return default_space(names, _ranges(with_rate, rates))
    except ConfigError as error:
        option = "" if str(error).startswith("--") else "--algorithm: "
        raise ConfigError(f"{option}{error}") from error


def _names_in_file(file: Path) -> list[str]:
    try:
        return algorithm_names(parse(file.read_bytes()))
    except (OSError, ValueError):  # reading the file for the search says why
        return []


def settings_of(
    assignments: Iterable[str] | None,
    *,
    relative: float | None = None,
    absolute: float | None = None,
    seed: int | None = None,
    no_preflight: bool = False,
    config: Path | None = None,
    rates: Sequence[str] | None = None,
) -> AccuracyAwareSettings:
    """The settings of --set, of the options that are short for it, and of an NNCF-style configuration.

    Args:
        assignments: `NAME=VALUE` of --set.
        relative: --max-relative-drop.
        absolute: --max-absolute-drop.
        seed: --seed.
        no_preflight: --no-preflight.
        config: whose settings hold where no option has another one.
        rates: of --rate; the maximal compression rate is at least the highest of them, unless it is set.

    Raises:
        ConfigError: naming the option or the setting, what is allowed, and the value.
    """
    settings = _settings_in(config)
    changes = _with_other_keys(assigned(assignments or ()), assignments or (), settings)
    short = {_RELATIVE: relative, _ABSOLUTE: absolute, ("--seed", "seed"): seed}
    short[("--no-preflight", "preflight")] = False if no_preflight else None
    for (option, name), value in short.items():
        if value is None:
            continue
        if name in changes:
            raise ConfigError(f"{option} and --set {name} must not both be given; they are the same setting")
        changes[name] = value
    _require_one_budget(relative, absolute)
    highest = max((_range(each)[1] for each in rates or ()), default=0.0)
    if highest > settings.maximal_compression_rate:
        changes = {_HIGHEST: highest, **changes}
    return settings.with_changes(changes)


def assigned(assignments: Iterable[str]) -> dict[str, Any]:
    """The values of `NAME=VALUE` by name; `NAME.KEY=VALUE` is a key of an object.

    Raises:
        ConfigError: one has another form, an unknown name, or stands there twice.
    """
    values: dict[str, Any] = {}
    for text in assignments:
        path, equals, value = text.partition("=")
        *outer, name = path.strip().split(".")
        setting = outer[0] if outer else name
        if not equals:
            raise ConfigError(f"--set must be NAME=VALUE, such as patience_epochs=5; got {text!r}")
        if setting not in AccuracyAwareSettings.model_fields:
            raise ConfigError(f"--set: {unknown_name('setting', setting, AccuracyAwareSettings.model_fields)}")
        home = values
        for key in outer:
            home = _object_in(home, key, text)
        if name in home:
            raise ConfigError(f"--set must give each setting once; got {text!r} a second time")
        home[name] = _value(value.strip())
    return values


def _with_other_keys(
    changes: Mapping[str, Any], assignments: Iterable[str], settings: AccuracyAwareSettings
) -> dict[str, Any]:
    """What `NAME.KEY=VALUE` leaves of an object stays as the settings have it."""
    known = settings.to_dict()
    by_key = {path.split(".")[0].strip() for text in assignments if "." in (path := text.partition("=")[0])}
    return {name: {**(known[name] or {}), **value} if name in by_key else value for name, value in changes.items()}


def _object_in(home: dict[str, Any], name: str, text: str) -> dict[str, Any]:
    inner = home.setdefault(name, {})
    if not isinstance(inner, dict):
        raise ConfigError(f"--set must give {name} as a whole or by its keys, not both; got {text!r}")
    return inner


def _value(text: str) -> Any:
    """As JSON has it, else the text itself."""
    try:
        return parse(text)
    except ValueError:
        return text


def _require_one_budget(relative: float | None, absolute: float | None) -> None:
    if relative is not None and absolute is not None:
        raise ConfigError(
            f"{_RELATIVE[0]} and {_ABSOLUTE[0]} must not both be given; got {relative:g} and {absolute:g}"
        )
    if relative is not None or absolute is not None:
        AccuracyBudget(relative, absolute)


def _settings_in(config: Path | None) -> AccuracyAwareSettings:
    if config is None:
        return AccuracyAwareSettings()
    from autocompress.nncf.config import CompressionConfig
    from autocompress.nncf.translation import settings_of

    return settings_of(CompressionConfig.from_json(config))


def _ranges(names: Sequence[str], rates: Sequence[str]) -> Mapping[str, tuple[float, float]]:
    if len(rates) == 1 and names:
        return dict.fromkeys(names, _range(rates[0]))
    if rates and len(rates) != len(names):
        have = f"{len(names)} ({', '.join(names)})" if names else "none"
        raise ConfigError(
            "--rate must be given once, or once for each algorithm with a compression rate, in their order; got "
            f"{len(rates)} for {have}"
        )
    return {name: _range(rate) for name, rate in zip(names, rates, strict=False)}


def _range(text: str) -> tuple[float, float]:
    low, _, high = text.partition(":")
    try:
        ends = float(low), float(high)
    except ValueError:
        ends = (1.0, 0.0)
    if not 0 <= ends[0] < ends[1] < 1:
        raise ConfigError(f"--rate must be LOW:HIGH with 0 <= LOW < HIGH < 1, such as 0.2:0.9; got {text!r}")
    return ends
