"""Write docs/cli.md, docs/metrics.md and docs/schema.md from the code: ``make docs``."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main
from typer.core import TyperGroup

from analysis_db.docs import schema_markdown
from probes.base import installed_probes
from workbench import cli


def commands(group: TyperGroup, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(name, command) of every command, those of groups such as ``import`` one by one."""
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from commands(command, f"{prefix}{name} ")
        else:
            yield prefix + name, command


def cli_markdown() -> str:
    """Every command with its help, options and example."""
    group = typer.main.get_command(cli.app)
    assert isinstance(group, TyperGroup)
    lines = [
        "# The command line",
        "",
        "Exit codes: 0 done, 1 something failed, 2 wrong usage. Errors are one sentence; "
        "`workbench --debug COMMAND` adds the traceback. `WORKBENCH_HOME` (default "
        "`./workbench-data`) holds the store, the runs and the suites made here.",
    ]
    for name, command in commands(group):
        lines += ["", f"## workbench {name}", "", command.help or ""]
        lines += ["", "| argument or option | default | |", "|---|---|---|"]
        for param in command.params:
            is_argument = param.param_type_name == "argument"
            label = (param.name or "").upper() if is_argument else ", ".join(param.opts)
            default = "" if param.default in (None, False) else f"`{param.default}`"
            text = (getattr(param, "help", "") or "").replace("|", "\\|")
            lines.append(f"| `{label}` | {default} | {text} |")
        example = (command.epilog or "").removeprefix("Example: ")
        lines += ["", "```sh", example, "```"]
    return "\n".join(lines) + "\n"


def metrics_markdown() -> str:
    """Every probe with its settings and the metrics that it yields."""
    lines = [
        "# Metrics",
        "",
        "Written from the registry beside the code that computes them. A value that does not "
        "exist has no row in `phase_metrics`; `missing_values` says why.",
    ]
    for probe in installed_probes().values():
        lines += ["", f"## {probe.id} (version {probe.version})", "", probe.title]
        fields = probe.Settings.model_fields
        if fields:
            lines += ["", "| setting | default | |", "|---|---|---|"]
            lines += [
                f"| `{n}` | `{f.default}` | {_cell(f.description)} |" for n, f in fields.items()
            ]
        if probe.metrics:
            lines += ["", "| metric | formula | unit | source |", "|---|---|---|---|"]
            lines += [
                f"| `{m.id}` | {_cell(m.formula)} | {_cell(m.unit)} | {_cell(m.source)} |"
                for m in probe.metrics
            ]
    return "\n".join(lines) + "\n"


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


GENERATED = {
    "cli.md": cli_markdown,
    "metrics.md": metrics_markdown,
    "schema.md": schema_markdown,
}


def main(folder: Path) -> None:
    for name, make in GENERATED.items():
        (folder / name).write_text(make(), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
