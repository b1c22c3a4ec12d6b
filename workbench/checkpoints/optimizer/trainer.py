"""The state dict of a ``torch.optim`` optimizer in one file: ``optimizer.pt`` of the Trainer of
transformers, ``optimizer.bin`` of accelerate.

It keeps betas, eps and rate with the groups. The rate is the one in force when it was saved, which
for the Trainer is that of the next step.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from workbench.checkpoints.optimizer.naming import Number, names_of
from workbench.checkpoints.optimizer.pickled import Saved
from workbench.checkpoints.optimizer.state import Hyperparameters, Parameters, ParameterState

TRAINER_FILES = ("optimizer.pt", "optimizer.bin")


class TrainerState:
    """See ``OptimizerState``."""

    layout = "trainer"

    def __init__(self, path: Path, parameters: Parameters) -> None:
        self._path = path
        self._parameters = parameters
        self._saved = Saved(path, parameters)
        content = self._saved.content
        if not isinstance(content, dict) or not {"state", "param_groups"} <= content.keys():
            raise parameters.wrong(
                path,
                "is no state dict of an optimizer (it has no state and param_groups)",
                "a flattened ZeRO partition has to be converted with ds_to_universal first",
            )
        states: Mapping[Number, dict[str, Any]] = content["state"]
        self._groups = content["param_groups"]
        for number, state in states.items():
            held = [key for key in ("exp_avg", "exp_avg_sq") if key in state]
            if len(held) < 2 or not all(isinstance(state[key], torch.Tensor) for key in held):
                raise parameters.wrong(
                    path,
                    f"holds {', '.join(map(str, state)) or 'nothing'} for parameter {number}, "
                    "and not exp_avg and exp_avg_sq",
                    "only the states of Adam and AdamW can be read",
                )
        shapes = {number: tuple(state["exp_avg"].shape) for number, state in states.items()}
        names = names_of(self._groups, shapes, parameters, path)
        self._states = {names[number]: state for number, state in states.items()}
        self._said = {
            names[number]: self._said_by(group)
            for group in self._groups
            for number in group["params"]
        }
        self.names = parameters.check(self._states, path)

    def _said_by(self, group: Mapping[str, Any]) -> Hyperparameters:
        beta1, beta2 = group.get("betas") or (None, None)
        number = self._saved.number
        return Hyperparameters(
            number(group.get("lr")), number(beta1), number(beta2), number(group.get("eps"))
        )

    def parameters(self) -> Iterator[ParameterState]:
        for name in self.names:
            state = self._states[name]
            yield ParameterState(
                name,
                self._parameters.roles[name],
                exp_avg=self._read(name, state["exp_avg"]),
                exp_avg_sq=self._read(name, state["exp_avg_sq"]),
                step=self._saved.number(state.get("step")),
                fp32=None,
                said=self._said[name],
            )

    def _read(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        return self._parameters.shaped(name, self._saved.read(tensor), self._path)
