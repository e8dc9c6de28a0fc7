"""Options and arguments that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
