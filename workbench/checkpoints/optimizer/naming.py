"""Names for the numbers under which ``torch.optim`` keeps its state.

A state dict numbers the parameters group by group. Where it does not say their names, they follow
from the order of the model's parameters and from how they were grouped. Of the usual groupings
every one is tried; names are given only where the shapes of all parameters leave one mapping.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.checkpoints.optimizer.state import Parameters

_NO_DECAY = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)")
"""Names that the Trainer of transformers leaves out of weight decay (its trainer.py, 4.46 on)."""

Number = int | str


def names_of(
    groups: Sequence[Mapping[str, Any]],
    shapes: Mapping[Number, Sequence[int]],
    parameters: Parameters,
    file: Path,
) -> dict[Number, str]:
    """The parameter's name by its number; ``shapes`` are those of its ``exp_avg``.

    Raises CheckpointError, one sentence, where no mapping fits or more than one does.
    """
    numbers = [list(group["params"]) for group in groups]
    every = [number for group in numbers for number in group]
    if all(len(group.get("param_names", ())) == len(group["params"]) for group in groups):
        told = [str(name) for group in groups for name in group["param_names"]]
        return {n: parameters.clean(name) for n, name in zip(every, told, strict=True)}
    if all(isinstance(number, str) for number in every):
        return {number: parameters.clean(number) for number in every}
    model = _parameters_of(parameters)
    if _flattened(shapes, groups, model):
        raise parameters.wrong(
            file,
            "holds flattened partitions, in which parameters have no names",
            "convert the state with the tools of what wrote it, such as ds_to_universal",
        )
    fitting: list[dict[Number, str]] = []
    for grouped in _groupings(model, len(groups), parameters):
        if [len(names) for names in grouped] != [len(group) for group in numbers]:
            continue
        flat = [name for names in grouped for name in names]
        mapping = dict(zip(every, flat, strict=True))
        fit = all(parameters.fits(mapping[n], shapes[n]) for n in every if n in shapes)
        if fit and mapping not in fitting:
            fitting.append(mapping)
    if len(fitting) != 1:
        why = "no usual grouping of the model's parameters fits its shapes"
        if fitting:
            why = f"{len(fitting)} groupings of the model's parameters fit its shapes"
        raise parameters.wrong(
            file,
            f"numbers its parameters and does not name them, and {why}",
            "save the state with named parameters (param_names), or as a distributed checkpoint",
        )
    return fitting[0]


def _parameters_of(parameters: Parameters) -> list[str]:
    """The names of the model's parameters in its own order, each shared one once."""
    import torch
    import transformers

    import workbench.models  # noqa: F401  registers yulanmini and miniyulan

    config = parameters.checkpoint.config
    known = transformers.AutoConfig.for_model(config["model_type"]).__class__.from_dict(config)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(known)
    names = [parameters.clean(name) for name, _ in model.named_parameters()]
    return [name for name in names if name in parameters.shapes]


def _flattened(
    shapes: Mapping[Number, Sequence[int]], groups: Sequence[Any], model: Sequence[str]
) -> bool:
    """One long vector per group, or a few, where the model has many parameters."""
    vectors = bool(shapes) and all(len(shape) == 1 for shape in shapes.values())
    return vectors and len(shapes) < len(model)


def _groupings(
    model: Sequence[str], groups: int, parameters: Parameters
) -> Iterator[list[list[str]]]:
    """The parameters as usual trainers group them: those that decay first."""
    if groups == 1:
        yield [list(model)]
        return
    if groups != 2:
        return
    for without in (
        lambda name: bool(_NO_DECAY.search(name.lower())),  # transformers
        lambda name: "bias" in name or "norm" in _module(name),  # transformers until 4.45
        lambda name: "bias" in name,  # the same, where it does not know the model's norms
        lambda name: "norm" in _module(name) or "alpha" in name or "bias" in name,
        lambda name: (
            parameters.roles[name][0].layer is None or not _is_matrix(name)
        ),  # embeddings left out
    ):
        yield [
            [name for name in model if not without(name)],
            [name for name in model if without(name)],
        ]


def _module(name: str) -> str:
    """The name of the module that a parameter is directly in."""
    return f".{name}".lower().rsplit(".", 2)[-2]


def _is_matrix(name: str) -> bool:
    return name.endswith("weight") and "norm" not in _module(name)
