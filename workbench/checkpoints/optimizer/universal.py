"""DeepSpeed's universal layout: a folder per parameter, whatever the number of processes was.

``latest_universal`` names ``<tag>_universal``; below it ``zero/<parameter>/`` holds ``fp32.pt``,
``exp_avg.pt`` and ``exp_avg_sq.pt``, each ``{"param": tensor, "cat_dim": ...}`` or the tensor
alone, and ``step.pt``. A tied head has no folder. Betas, eps and rate are not in it.
"""

from collections.abc import Iterator
from pathlib import Path

import torch

from workbench.checkpoints.optimizer.pickled import Saved
from workbench.checkpoints.optimizer.state import Hyperparameters, Parameters, ParameterState
from workbench.hub.shards import is_file_name
from workbench.text import printable

LATEST = "latest_universal"


class UniversalState:
    """See ``OptimizerState``."""

    layout = "universal"

    def __init__(self, folder: Path, parameters: Parameters) -> None:
        self._parameters = parameters
        latest = folder / LATEST
        if not latest.is_file():
            raise parameters.wrong(latest, "is missing, which names the folder of the state")
        tag = latest.read_text(encoding="utf-8", errors="replace").strip()
        if not is_file_name(tag):
            raise parameters.wrong(
                latest, f"names {printable(repr(tag))}, which is no folder beside it"
            )
        self._zero = folder / tag / "zero"
        if not self._zero.is_dir():
            raise parameters.wrong(latest, f"names {tag}, and there is no {tag}/zero")
        folders = [path.name for path in self._zero.iterdir() if path.is_dir()]
        self._folders = {parameters.clean(folder): folder for folder in folders}
        self.names = parameters.check(self._folders, self._zero)

    def parameters(self) -> Iterator[ParameterState]:
        for name in self.names:
            yield ParameterState(
                name,
                self._parameters.roles[name],
                exp_avg=self._part(name, "exp_avg"),
                exp_avg_sq=self._part(name, "exp_avg_sq"),
                step=self._step(name),
                fp32=self._part(name, "fp32") if self._file(name, "fp32").is_file() else None,
                said=Hyperparameters(),
            )

    def _file(self, name: str, part: str) -> Path:
        return self._zero / self._folders[name] / f"{part}.pt"

    def _part(self, name: str, part: str) -> torch.Tensor:
        path = self._file(name, part)
        if not path.is_file():
            raise self._parameters.wrong(path, "is missing")
        saved = Saved(path, self._parameters)
        held = saved.content.get("param") if isinstance(saved.content, dict) else saved.content
        if not isinstance(held, torch.Tensor):
            raise self._parameters.wrong(path, "holds no tensor")
        return self._parameters.shaped(name, saved.read(held), path)

    def _step(self, name: str) -> float | None:
        path = self._file(name, "step")
        if not path.is_file():
            return None
        saved = Saved(path, self._parameters)
        held = saved.content.get("param") if isinstance(saved.content, dict) else saved.content
        step = saved.number(held)
        if step is None:
            raise self._parameters.wrong(path, "holds no number of steps")
        return step
