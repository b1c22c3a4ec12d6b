"""Are the tensors those that the config asks for, and is what is tied equal?"""

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from workbench.hub.audit.architecture import architecture_of
from workbench.hub.audit.facts import Facts, Fault, Finding, some
from workbench.hub.audit.files import weights_form
from workbench.hub.audit.gather import tied_pair
from workbench.hub.cache import FORMS

if TYPE_CHECKING:
    from workbench.models.architecture import Architecture

_DTYPES = {
    "float32": "F32", "float": "F32", "float16": "F16", "half": "F16", "bfloat16": "BF16",
    "float64": "F64", "double": "F64",
}  # fmt: skip
_FLOATS = (*_DTYPES.values(), "F8_E5M2", "F8_E4M3")


def tensors(facts: Facts) -> Iterator[Finding]:
    """Names, shapes and dtypes of the tensors against the config."""
    if facts.config is None:
        return
    model = architecture_of(facts.config)
    if isinstance(model, Fault):
        known = model.check == "unknown-architecture"
        yield facts.find(
            "note" if known else "error",
            model.check,
            f"{model.message}: names and shapes of the tensors could not be checked.",
            model_type=facts.config.get("model_type"),
        )
    if weights_form(facts) == FORMS[1]:
        yield facts.find(
            "note",
            "pickled-only",
            "The weights are pickled, and their tensors cannot be read without downloading them: "
            "names, shapes and dtypes were not checked.",
        )
    elif facts.headers_complete:
        if not isinstance(model, Fault):
            yield from _names_and_shapes(facts, model)
        yield from _dtypes(facts, model)


def _names_and_shapes(facts: Facts, model: "Architecture") -> Iterator[Finding]:
    found: set[str] = set()
    surplus: list[str] = []
    wrong: dict[str, tuple[list[int], list[int]]] = {}
    for stored, entry in facts.tensors.items():
        name, reshaped = model.name_of(stored)
        shape = model.shapes.get(name)
        if shape is not None:
            found.add(name)
            if not reshaped and not _same(shape, entry.shape):
                wrong[stored] = list(entry.shape), list(shape)
        elif not model.ignores(stored):
            surplus.append(stored)
    missing = [name for name in model.shapes if name not in found]
    if model.tied and model.head in missing:
        missing.remove(model.head)
    if missing:
        yield facts.find(
            "error",
            "missing-tensor",
            f"The weights lack {some(missing)}, which config.json asks for: a reader would fill "
            f"{'it' if len(missing) == 1 else 'them'} with random numbers.",
            missing=missing,
        )
    if surplus:
        yield facts.find(
            "error",
            "unexpected-tensor",
            f"The weights hold {some(surplus)}, for which the model of config.json has no place: "
            "config and weights are not of the same model.",
            surplus=surplus,
        )
    if wrong:
        name, (has, wants) = next(iter(wrong.items()))
        more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        yield facts.find(
            "error",
            "wrong-shape",
            f"{name} has the shape {has} and config.json asks for {wants}{more}: config and "
            "weights are not of the same model.",
            shapes={n: {"weights": h, "config": w} for n, (h, w) in wrong.items()},
        )


def _same(wanted: tuple[int, ...], stored: tuple[int, ...]) -> bool:
    """A single number has the shape () or (1,), and both are right."""
    return wanted == stored or {wanted, stored} == {(), (1,)}


def _dtypes(facts: Facts, model: "Architecture | Fault") -> Iterator[Finding]:
    config = facts.config or {}
    stated = str(config.get("dtype", config.get("torch_dtype"))).removeprefix("torch.")
    wanted = _DTYPES.get(stated)
    if wanted is None:
        return
    others = Counter(
        entry.dtype
        for name, entry in facts.tensors.items()
        if entry.dtype in _FLOATS
        and entry.dtype != wanted
        and (isinstance(model, Fault) or not model.ignores(name))
    )
    if others:
        each = ", ".join(f"{count:,} in {dtype}" for dtype, count in others.most_common())
        yield facts.find(
            "warning",
            "dtype-differs",
            f"config.json says {stated}, and of {len(facts.tensors):,} tensors {each} are stored: "
            "a reader that goes by the config converts them.",
            stated=stated,
            others=dict(others),
        )


def tied_copies(facts: Facts) -> Iterator[Finding]:
    """Is an embedding that is tied stored twice, and are the two the same?"""
    pair = tied_pair(facts)
    if pair is None:
        return
    (_, embedding), (_, head) = pair
    copies = facts.copies
    if copies is None:
        if (embedding.dtype, embedding.shape) != (head.dtype, head.shape):
            yield _differ(facts, "are not even of one shape and dtype")
        return
    if copies.samples:
        share = f"{100 * copies.compared / copies.bytes:.2g} % of the bytes"
        how = f"in {copies.samples} samples of {copies.compared // copies.samples:,} bytes, {share}"
    else:
        how = f"compared whole, {copies.bytes:,} bytes"
    evidence = {"compared_bytes": copies.compared, "bytes": copies.bytes, "samples": copies.samples}
    if copies.equal:
        yield facts.find(
            "note",
            "tied-stored-twice",
            f"The tied embedding is stored twice, as the head too, and the two are equal ({how}).",
            **evidence,
        )
    else:
        yield _differ(facts, f"are different ({how})", **evidence)


def _differ(facts: Facts, what: str, **evidence: object) -> Finding:
    return facts.find(
        "error",
        "tied-copies-differ",
        f"config.json ties the head to the embedding, but both are stored and {what}: readers that "
        "tie them and readers that do not compute different models.",
        **evidence,
    )
