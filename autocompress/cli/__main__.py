"""The command line: its commands in the order of its help."""

from __future__ import annotations

from typing import Annotated

import typer

from autocompress.cli import run, show

_EXAMPLES = """\b
Examples:
  autocompress run my_module.py:MyModule --algorithm l2
  autocompress run my_module.py:MyModule --algorithm l2+qat --rate 0.2:0.9 \\
      --max-absolute-drop 0.005 --set patience_epochs=5 --out small
  autocompress run my_module.py:MyModule --search-space pruners.json \\
      --tuner TPE --trials 30 --objective macs
"""

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def main() -> None:
    """Run the command line."""
    app(prog_name="autocompress")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(version("autocompress"))
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Finds the highest compression rate of a PyTorch model within an accuracy budget.

    Exit codes: 0 found, 2 bad input, 3 nothing within the budget, 130 interrupted, 1 anything else.
    """


app.command()(run.demo)
app.command(epilog=_EXAMPLES)(run.run)
for _command in (
    run.resume,
    run.worker,
    show.status,
    show.trials,
    show.best,
    show.report,
    show.view,
    show.export,
    run.check,
    run.compare,
    show.settings,
    show.search_space,
    show.schema,
):
    app.command()(_command)

if __name__ == "__main__":
    main()
