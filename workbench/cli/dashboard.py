"""`workbench app`: the dashboard."""

from typing import Annotated

import typer

from workbench.cli import app as commands
from workbench.cli.output import console


@commands.command(name="app", epilog="Example: workbench app --port 8501")
def app(
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port to serve on.")] = 8501,
    host: Annotated[
        str,
        typer.Option("--host", help="Address to listen on; the default is for this machine alone."),
    ] = "127.0.0.1",
) -> None:
    """Open the dashboard on this machine, until Ctrl-C."""
    from workbench.dashboard import serve
    from workbench.settings import Home

    console.print(f"Dashboard: http://{host}:{port} (Ctrl-C stops it)", highlight=False)
    raise typer.Exit(serve(Home.from_env(), host, port))
