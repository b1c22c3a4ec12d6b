"""`workbench doctor`: is everything there that the workbench needs?"""

from typing import Annotated

import typer

from workbench.cli import app
from workbench.cli.output import Json, print_rows


@app.command(epilog="Example: workbench doctor --offline")
def doctor(
    offline: Annotated[
        bool, typer.Option("--offline", help="Do not try to reach the Hub.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check Python, torch, device, disk, Hub and store; exits 1 when something is wrong."""
    from workbench.checkup import check_all
    from workbench.settings import Home

    rows = check_all(Home.from_env(), offline=offline)
    print_rows(rows, as_json=as_json)
    if any(row["state"] == "wrong" for row in rows):
        raise typer.Exit(1)
