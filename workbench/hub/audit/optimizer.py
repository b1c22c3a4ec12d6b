"""Is the optimizer's state there where the catalogue says so, complete, and of the right step?"""

import re
from collections.abc import Iterator
from math import prod

from workbench.hub.audit.architecture import architecture_of
from workbench.hub.audit.facts import Facts, Fault, Finding, some
from workbench.text import printable

_PARTS = ("fp32.pt", "exp_avg.pt", "exp_avg_sq.pt", "step.pt")
_TRAINER = ("optimizer.pt", "optimizer.bin")
"""The one file in which the Trainer of transformers keeps it, or accelerate."""
_DISTRIBUTED = ".metadata"
"""What names the parts of a distributed checkpoint."""
_STEP = re.compile(r"global_step(\d+)_universal")


def optimizer(facts: Facts) -> Iterator[Finding]:
    """The state in DeepSpeed's universal layout, in the Trainer's one file, or in parts."""
    phase = facts.phase
    tag = facts.latest_universal
    folders = sorted({n.split("/")[0] for n in facts.sizes if _STEP.match(n)})
    whole = any(
        size and (name in _TRAINER or name.split("/")[1:] == [_DISTRIBUTED] or name == _DISTRIBUTED)
        for name, size in facts.sizes.items()
    )
    if not whole and tag is None and not folders:
        if phase.has_optimizer:
            yield facts.find(
                "error",
                "optimizer-missing",
                "The catalogue says that the optimizer's state was published, and it is not "
                "there: training cannot be resumed from this phase.",
            )
        return
    if not phase.has_optimizer:
        yield facts.find(
            "note",
            "optimizer-unlisted",
            "An optimizer's state is there although the catalogue says that there is none.",
            folders=folders,
        )
    if whole:
        return
    if isinstance(tag, Fault):
        yield from _incomplete(facts, tag.message)
    elif tag is None:
        yield from _incomplete(facts, f"{some(folders)} is there without the file latest_universal")
    elif tag not in folders:
        yield from _incomplete(
            facts,
            f"latest_universal names {printable(tag) or 'nothing'}, which is not there",
            named=tag,
        )
    else:
        yield from _of_step(facts, tag)
        yield from _parts(facts, tag)


def _incomplete(facts: Facts, what: str, **evidence: object) -> Iterator[Finding]:
    yield facts.find(
        "error",
        "optimizer-incomplete",
        f"The optimizer's state cannot be loaded: {what}.",
        **evidence,
    )


def _of_step(facts: Facts, tag: str) -> Iterator[Finding]:
    step = int(_STEP.fullmatch(tag)[1]) if _STEP.fullmatch(tag) else None  # type: ignore[index]
    end = facts.phase.end_step
    if step is not None and end is not None and step != end:
        yield facts.find(
            "error",
            "optimizer-step",
            f"The optimizer's state is of step {step:,}, and the phase ends at step {end:,}: it "
            "belongs to another checkpoint.",
            step=step,
            end_step=end,
        )


def _parts(facts: Facts, tag: str) -> Iterator[Finding]:
    root = f"{tag}/zero/"
    sizes = {n.removeprefix(root): size for n, size in facts.sizes.items() if n.startswith(root)}
    tensors = facts.tensors if facts.headers_complete else {}
    tied = _tied_heads(facts)
    parameters = [n for n in tensors if n not in tied] or sorted({n.split("/")[0] for n in sizes})
    missing = [f"{n}/{part}" for n in parameters for part in _PARTS if f"{n}/{part}" not in sizes]
    if missing or not parameters:
        yield from _incomplete(
            facts,
            f"{len(missing):,} files of {len(parameters):,} parameters are missing, such as "
            f"{missing[0] if missing else root}",
            missing=missing[:100],
        )
    # All but the step are float32, whatever the weights are.
    short = [
        f"{name}/{part}"
        for name in parameters
        for part in _PARTS[:3]
        if name in tensors and sizes.get(f"{name}/{part}", 1 << 62) < 4 * prod(tensors[name].shape)
    ]
    if short:
        yield from _incomplete(
            facts,
            f"{some(short)} {'has' if len(short) == 1 else 'have'} fewer bytes than its float32 "
            "values need, as after an upload that was cut",
            short=short[:100],
        )


def _tied_heads(facts: Facts) -> set[str]:
    """Stored names of a head that is the embedding: no parameter of its own."""
    model = architecture_of(facts.config) if facts.config is not None else None
    if model is None or isinstance(model, Fault) or not model.tied:
        return set()
    return {name for name in facts.tensors if model.name_of(name)[0] == model.head}
