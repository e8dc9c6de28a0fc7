"""Running the commands, in this process or in one of their own."""

from typer.testing import CliRunner

from autocompress.cli.app import app


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])
