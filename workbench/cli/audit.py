"""`workbench audit`: are the published checkpoints what they are said to be?"""

from typing import Any

import typer
from rich.text import Text

from workbench.cli import app
from workbench.cli.output import Json, console, print_json, print_rows, progress_bar
from workbench.cli.suites import Phases, SuiteName

_STYLES = {"error": "red", "warning": "yellow", "note": ""}


@app.command(epilog="Example: workbench audit yulan-mini --phases 20-27")
def audit(
    suite: SuiteName = "demo",
    phases: Phases = "all",
    as_json: Json = False,
) -> None:
    """Check published checkpoints over the Hub's API, without downloading weights.

    Missing repositories, revisions, files and shards; files cut short; phases that serve the same
    weights; tensors, config, tokenizer and optimizer state against what they should be. Findings
    are kept in the store, where the dashboard shows them. An error among them makes it exit with 1.
    """
    from workbench.audits import audit_suite, by_sentence
    from workbench.settings import Home

    with progress_bar() as bar:
        task = bar.add_task("Asking the Hub", total=None)
        found = audit_suite(
            suite,
            phases,
            Home.from_env(),
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if as_json:
        print_json(found)
    else:
        rows = by_sentence(found["findings"])
        print_rows(
            [row | {"severity": Text(row["severity"], _STYLES[row["severity"]])} for row in rows],
            as_json=False,
            empty="Nothing was found.",
        )
        console.print(_summary(found), highlight=False, soft_wrap=True)
    if found["errors"]:
        raise typer.Exit(1)


def _summary(found: dict[str, Any]) -> str:
    from rich.filesize import decimal

    counts = ", ".join(
        f"{found[f'{kind}s']} {kind}{'' if found[f'{kind}s'] == 1 else 's'}" for kind in _STYLES
    )
    looked = f"{found['checkpoints']} checkpoints of suite {found['suite']}: {counts}"
    read = f"{decimal(found['bytes_read'])} read of their {decimal(found['bytes'])}, nothing kept"
    if found["errors"] or found["warnings"]:
        return f"{looked}; {read}."
    return (
        f"{looked}; {read}. All is well with files and their sizes, shards, the identity of "
        "weights, names, shapes and dtypes of tensors, tied embeddings, optimizer states, configs "
        "and tokenizers."
    )
