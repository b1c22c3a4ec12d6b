"""What a reader of an optimizer's state hands out, and the parameters that it has to match."""

import math
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch

from workbench.checkpoints.roles import Role, parts
from workbench.errors import CheckpointError

if TYPE_CHECKING:
    from workbench.checkpoints.checkpoint import Checkpoint

_WRAPPERS = re.compile(r"^module\.|_orig_mod\.|_fsdp_wrapped_module\.")
_VOCABULARY = ("embed", "lm_head")


class NoOptimizerState(CheckpointError):
    """The checkpoint's folder holds no optimizer state."""


@dataclass(frozen=True)
class Hyperparameters:
    """What the state itself says of the update; None where it does not say."""

    lr: float | None = None
    beta1: float | None = None
    beta2: float | None = None
    eps: float | None = None


@dataclass(frozen=True)
class ParameterState:
    """Adam's state of one parameter, tensors in the shape of the checkpoint's weight."""

    name: str
    roles: tuple[Role, ...]
    """One; three, q, k and v, for the one matrix or bias that holds them."""
    exp_avg: torch.Tensor
    exp_avg_sq: torch.Tensor
    step: float | None
    """Updates so far; None where the state does not say."""
    fp32: torch.Tensor | None
    """The float32 weight that the optimizer keeps, where it keeps one."""
    said: Hyperparameters

    def parts(self) -> Iterator[tuple[Role, "ParameterState"]]:
        """The state of each role."""
        of_each = [
            parts(tensor, self.roles) if tensor is not None else [None] * len(self.roles)
            for tensor in (self.exp_avg, self.exp_avg_sq, self.fp32)
        ]
        for role, m, v, fp32 in zip(self.roles, *of_each, strict=True):
            yield role, replace(self, roles=(role,), exp_avg=m, exp_avg_sq=v, fp32=fp32)


class OptimizerState(Protocol):
    """A state whose names and shapes fit the checkpoint; holds none of its tensors."""

    layout: str
    """universal, trainer or distributed."""
    names: list[str]

    def parameters(self) -> Iterator[ParameterState]:
        """One parameter after the other, read now. Raises CheckpointError."""


def _roles(checkpoint: "Checkpoint") -> dict[str, tuple[Role, ...]]:
    """What every parameter is; a learnable scale stands under the module that it multiplies, as
    ``q_proj_alpha``."""
    found = dict(checkpoint.roles())
    for name, scaled in checkpoint.alpha_roles().items():
        one = f"{scaled[0].module}_alpha" if len(scaled) == 1 else name.rsplit(".", 1)[-1]
        found[name] = (Role(one, scaled[0].layer),)
    return found


class Parameters:
    """The parameters of a checkpoint, as a state must have them."""

    def __init__(self, checkpoint: "Checkpoint") -> None:
        self.checkpoint = checkpoint
        self.what = checkpoint.what
        self.shapes = checkpoint.shapes
        self.roles = _roles(checkpoint)
        self.tied = bool(checkpoint.config.get("tie_word_embeddings", False))

    def wrong(self, file: Path, problem: str, remedy: str = "pull it again") -> CheckpointError:
        """An error of one sentence: the file, what is wrong with it, what to do."""
        folder = self.checkpoint.folder
        name = file.relative_to(folder) if folder and file.is_relative_to(folder) else file
        return CheckpointError(f"{self.what}: {name} {problem}; {remedy}.")

    def clean(self, name: str) -> str:
        """The name in the checkpoint's files, without what wrappers of a model put before it."""
        bare = _WRAPPERS.sub("", name)
        return bare if bare in self.shapes else self.checkpoint.stored_name(bare)

    def check(self, names: Collection[str], file: Path) -> list[str]:
        """The names in the order of the checkpoint's tensors.

        Raises CheckpointError for one that the weights do not have, and for a weight that has no
        state; the tied head needs none.
        """
        unknown = sorted(set(names) - self.shapes.keys())
        if unknown:
            raise self.wrong(
                file,
                f"has a state of {unknown[0]}, which the weights do not hold ({len(unknown)} such)",
                "it belongs to another checkpoint",
            )
        missing = [
            name
            for name in self.shapes
            if name not in names and not (self.tied and self.roles[name][0].module == "lm_head")
        ]
        if missing:
            raise self.wrong(
                file, f"has no state of {missing[0]} ({len(missing)} parameters lack one)"
            )
        return [name for name in self.shapes if name in names]

    def fits(self, name: str, shape: Collection[int]) -> bool:
        """Whether a state of this shape can be the parameter's."""
        wanted, found = tuple(self.shapes[name]), tuple(shape)
        return (
            found == wanted
            or math.prod(found) == math.prod(wanted) == 1  # a scale is stored as () or (1,)
            or self._padded(name, found)
        )

    def _padded(self, name: str, found: tuple[int, ...]) -> bool:
        """Is it the vocabulary's matrix with rows added, so that it divides among processes?"""
        wanted = tuple(self.shapes[name])
        if self.roles[name][0].module not in _VOCABULARY or len(found) != len(wanted):
            return False
        return found[0] > wanted[0] and found[1:] == wanted[1:]

    def shaped(self, name: str, tensor: torch.Tensor, file: Path) -> torch.Tensor:
        """The tensor in the shape of the weight, padding rows left out."""
        wanted = tuple(self.shapes[name])
        if not self.fits(name, tensor.shape):
            raise self.wrong(
                file,
                f"has the shape {list(tensor.shape)} for {name}, whose weight has {list(wanted)}",
                "it belongs to another checkpoint, or pull it again",
            )
        if self._padded(name, tuple(tensor.shape)):
            return tensor[: wanted[0]]
        return tensor.reshape(wanted)
