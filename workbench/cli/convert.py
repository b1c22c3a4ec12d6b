"""`workbench convert`: a checkpoint in a form that other tools serve."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from workbench.cli import app
from workbench.cli.output import console, note, progress_bar


class Form(StrEnum):
    llama = "llama"


class Dtype(StrEnum):
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


@app.command(epilog="Example: workbench convert 25 yulan-25-llama --to llama")
def convert(
    phase: Annotated[str, typer.Argument(help="The phase: a number, or a stage of one phase.")],
    out: Annotated[Path, typer.Argument(help="Folder to be made; it must not exist.")],
    to: Annotated[Form, typer.Option("--to", help="What to write: a plain Llama.")],
    suite: Annotated[
        str, typer.Option("--suite", help="Name of a suite; `workbench suites` lists them.")
    ] = "yulan-mini",
    dtype: Annotated[
        Dtype | None, typer.Option("--dtype", help="Of the weights; by default as stored.")
    ] = None,
) -> None:
    """Fold a checkpoint on disk into a Llama that transformers, vLLM and SGLang serve as it is."""
    from workbench.conversion import convert_phase
    from workbench.settings import Home

    with progress_bar(of_bytes=True) as bar:
        task = bar.add_task("Converting", total=None)
        done = convert_phase(
            suite,
            phase,
            out,
            Home.from_env(),
            dtype=dtype,
            progress=lambda written, total: bar.update(task, completed=written, total=total),
        )
    for field, value in done.phase.overrides.items():
        note.print(f"{field} is {value}, as the suite corrects it.")
    console.print(f"{done.name} is a plain Llama of {done.bytes / 1e9:,.2f} GB in {out}")
