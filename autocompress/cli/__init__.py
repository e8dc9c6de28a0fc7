"""The command line: `autocompress run`, `resume`, `status`, `trials`, `best`."""

from autocompress.cli.app import main

__all__ = ["main"]
