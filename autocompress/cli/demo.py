"""`autocompress demo`: a search that needs nothing but the installed package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autocompress.cli.error_handling import errors_as_messages
from autocompress.cli.execute import new_directory
from autocompress.cli.options import Algorithms, Assignments, Debug, EngineName, Out, Port, Quiet, Rates, RelativeDrop
from autocompress.cli.run import run

_MODULE = "autocompress.demo:DigitsModule"


def demo(
    algorithm: Algorithms = None,
    rate: Rates = None,
    trials: Annotated[int | None, typer.Option(min=1, help="At most so many trials.")] = None,
    max_relative_drop: RelativeDrop = None,
    assignments: Assignments = None,
    port: Port = None,
    engine: EngineName = "nni",
    out: Out = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Try it: compress a small CNN on handwritten digits; about a minute, needs no files and no network.

    By default with the algorithm l2, which removes filters. The data are scikit-learn's, the network is trained first.
    """
    with errors_as_messages(debug=debug):
        from autocompress.compression.module_loading import ModuleReference

        reference = ModuleReference.parse(_MODULE)
    directory = new_directory(reference, out)
    run(
        _MODULE,
        algorithm=algorithm or ["l2"],
        rate=rate,
        trials=trials,
        max_relative_drop=max_relative_drop,
        assignments=assignments,
        port=port,
        engine=engine,
        out=directory,
        quiet=quiet,
        debug=debug,
    )
    if not quiet:
        print(f"\n{_next_steps(directory, Path(reference.file))}")


def _next_steps(directory: Path, module: Path) -> str:
    return f"""\
report      autocompress report {directory}
all trials  autocompress trials {directory}
export      autocompress export {directory} small.pt2   (small.onnx needs: pip install "autocompress[onnx]")
your model  cp {module} my_module.py   (then put in your model, evaluator and trainer)
            autocompress check my_module.py:DigitsModule
            autocompress run my_module.py:DigitsModule --algorithm l2 --max-relative-drop 1"""
