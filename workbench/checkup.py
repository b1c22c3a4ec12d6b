"""What `workbench doctor` looks at; each check is a row (what, state, detail)."""

import importlib.metadata
import os
import platform
import shutil
import sys
from typing import Any

from analysis_db.errors import StoreError
from analysis_db.store import Store
from workbench.settings import Home

PACKAGES = (
    "torch", "transformers", "nnsight", "lm-eval", "duckdb", "pandas", "plotly", "streamlit",
    "huggingface_hub",
)  # fmt: skip
LOW_DISK = 10e9


def check_all(home: Home, *, offline: bool) -> list[dict[str, Any]]:
    """state is fine, note (works, but worth knowing) or wrong."""
    rows = [_row("python", sys.version_info >= (3, 11), platform.python_version())]
    rows += [_row(name, True, importlib.metadata.version(name)) for name in PACKAGES]
    rows.append(_device())
    existing = next(p for p in (home.root, *home.root.parents) if p.exists())
    free = shutil.disk_usage(existing).free
    rows.append(
        {
            "what": "disk",
            "state": "fine" if free > LOW_DISK else "note",
            "detail": f"{free / 1e9:.1f} GB free at {home.root}",
        }
    )
    rows.append(_store(home))
    if not offline:
        rows.append(_hub())
    return rows


def _row(what: str, fine: bool, detail: str) -> dict[str, Any]:
    return {"what": what, "state": "fine" if fine else "wrong", "detail": detail}


def _device() -> dict[str, Any]:
    import torch

    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        return _row("device", True, f"{torch.cuda.get_device_name(0)}, {memory:.0f} GiB")
    detail = f"no CUDA device: probes run on the CPU with {torch.get_num_threads()} threads"
    return {"what": "device", "state": "note", "detail": detail}


def _store(home: Home) -> dict[str, Any]:
    if not home.store.exists():
        detail = f"none yet at {home.store}; `workbench demo` makes one"
        return {"what": "store", "state": "note", "detail": detail}
    try:
        store = Store(home.store)
        runs = store.table("SELECT count(*) AS n FROM runs")["n"][0].as_py()
        return _row("store", True, f"schema {store.schema_version()}, {runs} runs")
    except StoreError as error:
        return _row("store", False, str(error))


def _hub() -> dict[str, Any]:
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session, httpx

    endpoint = os.environ.get("HF_ENDPOINT", constants.ENDPOINT)
    try:
        get_session().head(endpoint, timeout=5.0)
        return _row("hub", True, f"{endpoint} answers")
    except httpx.HTTPError as error:
        detail = (
            f"{endpoint} cannot be reached ({type(error).__name__}): only what is on disk works"
        )
        return {"what": "hub", "state": "note", "detail": detail}
