"""The optimizer's state beside a checkpoint, one parameter at a time, whatever wrote it.

Three layouts are read: DeepSpeed's universal folders, the one file of the Trainer of transformers
(and of accelerate), and torch's distributed checkpoints. None needs the library that wrote it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.checkpoints.optimizer.distributed import DistributedState, metadata_files
from workbench.checkpoints.optimizer.state import (
    Hyperparameters,
    NoOptimizerState,
    OptimizerState,
    Parameters,
    ParameterState,
)
from workbench.checkpoints.optimizer.trainer import TRAINER_FILES, TrainerState
from workbench.checkpoints.optimizer.universal import LATEST, UniversalState

if TYPE_CHECKING:
    from workbench.checkpoints.checkpoint import Checkpoint

__all__ = [
    "Hyperparameters",
    "NoOptimizerState",
    "OptimizerState",
    "ParameterState",
    "open_optimizer",
]


def open_optimizer(checkpoint: "Checkpoint") -> OptimizerState:
    """Find the state in the checkpoint's folder and match its names and shapes with the weights.

    Raises NoOptimizerState where there is none, CheckpointError for one that is incomplete, has
    no names, or does not belong to these weights; each is one sentence that names the file.
    """
    parameters = Parameters(checkpoint)
    folder = checkpoint.folder
    if folder is None:
        raise NoOptimizerState(
            f"{parameters.what} is read from the Hub in ranges, and its optimizer state can be "
            "read from disk only; pull it with --with-optimizer."
        )
    for find, read in _LAYOUTS:
        if found := find(folder):
            return read(found, parameters)
    partitions = sorted(folder.rglob("*_optim_states.pt"))
    if partitions:
        raise parameters.wrong(
            partitions[0],
            "is a flattened ZeRO partition, in which parameters have no names",
            "convert the folder with DeepSpeed's ds_to_universal",
        )
    raise NoOptimizerState(
        f"{parameters.what} has no optimizer state (none of {LATEST}, {', '.join(TRAINER_FILES)} "
        "and .metadata): fetch it with `workbench pull --with-optimizer`, or choose a phase whose "
        "state was published."
    )


def _universal(folder: Path) -> Path | None:
    return folder if (folder / LATEST).is_file() or any(folder.glob("*_universal")) else None


def _trainer(folder: Path) -> Path | None:
    return next((folder / name for name in TRAINER_FILES if (folder / name).is_file()), None)


def _distributed(folder: Path) -> Path | None:
    return next(metadata_files(folder), None)


_LAYOUTS: tuple[
    tuple[Callable[[Path], Path | None], Callable[[Path, Parameters], OptimizerState]], ...
] = (
    (_universal, UniversalState),
    (_trainer, TrainerState),
    (_distributed, DistributedState),
)
