"""Run a notebook's code cells in order in one namespace, as a kernel would, and print their output.

    python -m tests.run_notebook NOTEBOOK

The value of a cell's last line is printed. An error ends the program with its traceback.
"""

import ast
import json
import sys
from pathlib import Path
from typing import Any


def code_cells(path: Path) -> list[str]:
    """The sources of the code cells."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def run(path: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for number, source in enumerate(code_cells(path), start=1):
        print(f"--- cell {number}")
        body = ast.parse(source).body
        last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
        name = f"{path.name}, cell {number}"
        exec(compile(ast.Module(body, []), name, "exec"), namespace)
        if last is not None:
            shown = eval(compile(ast.Expression(last.value), name, "eval"), namespace)
            if shown is not None:
                print(repr(shown))


if __name__ == "__main__":
    run(Path(sys.argv[1]))
