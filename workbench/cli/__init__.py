"""The `workbench` command. Each command parses, calls one function and prints what it returns."""

import errno
import sys
import traceback
from typing import Annotated

import typer
from typer.core import TyperGroup

import workbench

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    cls=type("InOrder", (TyperGroup,), {"list_commands": lambda self, ctx: list(self.commands)}),
    help="Measure and look at how a language model changes over the phases of its pre-training.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"workbench {workbench.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback when something fails.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Read by main() itself, from the arguments."""


# Importing a command file adds its commands, in the order in which --help lists them.
from workbench.cli import (  # noqa: E402, I001
    demo, suites, audit, pull, convert, probe, compare, sql,  # noqa: F401
    export, imports, spikes, dashboard, doctor,  # noqa: F401
)  # fmt: skip


def main() -> None:
    """Entry point: exit 0 done, 1 something failed, 2 wrong usage."""
    try:
        app()
    except SystemExit as end:
        if end.code == 130:  # what typer makes of Ctrl-C, without a word
            _fail("Stopped; run the same command again.", 130)
        raise
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _fail(f"The disk is full ({error.filename or 'while writing'}): free some space.", 1)
    except Exception as error:
        code = getattr(error, "exit_code", None)  # ours have one: WorkbenchError, StoreError
        if code is None:
            raise
        _fail(str(error), code)


def _fail(message: str, code: int) -> None:
    if "--debug" in sys.argv:
        traceback.print_exc()
    typer.echo(f"Error: {message}", err=True)
    sys.exit(code)
