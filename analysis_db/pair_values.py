"""How far the weights of some phases are from each other: from sketches, or from what was measured.

Of two phases the change |W_b - W_a|/|W_a| and the cosine are given for every tensor, for every kind
of module over its layers, for every layer and in total. An estimate comes with two standard
deviations of its estimator; errors of different tensors are independent and add up in squares.

Legend: T tensors, P phases, M pairs.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

DEVIATIONS = 2.0
"""Standard deviations of a stated error: about 95 %."""
ROUNDING = 3e-7
"""Of a sketch in float32, relative to the tensor's norm; below this no change is seen."""
TOTAL = "total"

Key = tuple[str, int | None]
"""Module and layer of a tensor."""


class ExactChange(NamedTuple):
    """One tensor in two checkpoints, compared itself."""

    key: Key
    norm_a: float
    norm_b: float
    distance: float


@dataclass
class Tensors:
    """All tensors of some phases, and how far each is from itself in another phase.

    ``norms``, ``present`` and ``broken`` are of shape TP, the others TPP.
    """

    keys: list[Key]
    phases: list[int]
    norms: np.ndarray
    square: np.ndarray
    """Estimated |W - W'|^2."""
    variance: np.ndarray
    """Of that estimate."""
    rounding: np.ndarray
    """Of the sketches, in the unit of |W - W'|."""
    exact: np.ndarray
    equal: np.ndarray
    comparable: np.ndarray
    present: np.ndarray
    broken: np.ndarray
    """Has elements that are not finite; such a tensor is equal to one of the same bytes and
    comparable with none."""


def no_tensors(keys: list[Key], phases: list[int]) -> Tensors:
    """Room for these tensors; nothing in it is comparable yet."""
    t, p = len(keys), len(phases)

    def numbers() -> np.ndarray:
        return np.zeros((t, p, p))

    def flags() -> np.ndarray:
        return np.zeros((t, p, p), bool)

    return Tensors(
        keys, phases,
        norms=np.zeros((t, p)), present=np.zeros((t, p), bool), broken=np.zeros((t, p), bool),
        square=numbers(), variance=numbers(), rounding=numbers(),
        exact=flags(), equal=flags(), comparable=flags(),
    )  # fmt: skip


def compare_module(module: str, rows: pa.Table, ids: list[str], phases: list[int]) -> Tensors:
    """Compare the sketches of one kind of module each with each; ``ids`` are the phases' runs.

    ``rows`` has run_id, layer, values, n, norm, digest.
    """
    layers = sorted(
        set(rows["layer"].to_pylist()), key=lambda layer: -1 if layer is None else layer
    )
    found = no_tensors([(module, layer) for layer in layers], phases)
    values = rows["values"].combine_chunks()
    starts, flat = values.offsets.to_numpy(), values.values.to_numpy(zero_copy_only=False)
    columns = [rows[name].to_pylist() for name in ("layer", "run_id", "n", "norm", "digest")]
    of_layer: dict[int | None, dict[int, tuple[np.ndarray, int, float, str]]] = {}
    for i, (layer, run_id, n, norm, digest) in enumerate(zip(*columns, strict=True)):
        sketch = flat[starts[i] : starts[i + 1]]
        of_layer.setdefault(layer, {})[ids.index(run_id)] = (sketch, n, norm, digest)
    for t, layer in enumerate(layers):
        _compare(found, t, of_layer[layer])
    return found


def joined(parts: Sequence[Tensors], phases: list[int]) -> Tensors:
    """The tensors of several modules as one."""
    if not parts:
        return no_tensors([], phases)
    arrays = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in Tensors.__annotations__
        if name not in ("keys", "phases")
    }
    return Tensors([key for part in parts for key in part.keys], phases, **arrays)


def _compare(
    found: Tensors, t: int, sketches: dict[int, tuple[np.ndarray, int, float, str]]
) -> None:
    """One tensor over all phases. The sketches of the directions W/|W| give |W/|W| - W'/|W'||^2,
    and the norms, which are exact, do the rest."""
    here = list(sketches)
    found.present[t, here] = True
    found.norms[t, here] = [sketches[p][2] for p in here]
    norms = found.norms[t]
    absent = ~found.present[t]
    # A bias that a model does not have is zero in it; what is in neither of two is no difference.
    is_bias = found.keys[t][0].endswith("_bias")
    either = absent[:, None] | absent[None, :] if is_bias else absent[:, None] & absent[None, :]
    found.comparable[t] = either
    found.exact[t] = either
    found.equal[t] = either & (norms[:, None] == norms[None, :])
    gap = norms[:, None] - norms[None, :]
    found.square[t] = gap**2
    alike: dict[tuple[int, int], list[int]] = {}
    for p in here:
        values, n, _, _ = sketches[p]
        if len(values):
            alike.setdefault((len(values), n), []).append(p)
        else:
            found.broken[t, p] = True
    broken = [p for p in here if found.broken[t, p]]
    if broken:
        for of_pair in (found.comparable, found.exact, found.equal):
            of_pair[t, broken, :] = of_pair[t, :, broken] = False
        contents = np.array([f"{sketches[p][1]} {sketches[p][3]}" for p in broken])
        found.equal[np.ix_([t], broken, broken)] = contents[:, None] == contents[None, :]
    for (width, n), group in alike.items():
        at = np.ix_([t], group, group)
        units = np.stack([sketches[p][0] for p in group]).astype(np.float64)
        units /= np.where(norms[group] > 0, norms[group], 1.0)[:, None]
        own = np.square(units).sum(1)
        apart = np.maximum(own[:, None] + own[None, :] - 2 * units @ units.T, 0.0)
        bits = np.array([hash(sketches[p][0].tobytes()) for p in group])
        digests = np.array([sketches[p][3] for p in group])
        same = digests[:, None] == digests[None, :]
        equal = same | (bits[:, None] == bits[None, :])
        apart[equal] = 0.0
        product = norms[group][:, None] * norms[group][None, :]
        exact = same | (width == n) | (product == 0)
        found.comparable[at] = True
        found.square[at] = np.where(same, 0.0, gap[np.ix_(group, group)] ** 2 + product * apart)
        found.variance[at] = np.where(exact, 0.0, 2 / width * (product * apart) ** 2)
        blur = ROUNDING * (norms[group][:, None] + norms[group][None, :])
        found.rounding[at] = np.where(exact, 0.0, blur)
        found.exact[at] = exact
        found.equal[at] = equal


def with_exact(found: Tensors, changes: Iterable[ExactChange]) -> Tensors:
    """Put exact distances in place of the estimated ones, of two phases."""
    places = {key: t for t, key in enumerate(found.keys)}
    for key, norm_a, norm_b, distance in changes:
        t = places[key]
        found.norms[t] = norm_a, norm_b
        found.square[t, 0, 1] = distance**2
        found.variance[t, 0, 1] = found.rounding[t, 0, 1] = 0.0
        found.exact[t, 0, 1] = found.comparable[t, 0, 1] = True
        found.equal[t, 0, 1] = distance == 0
    return found


class Rows(NamedTuple):
    table: pa.Table
    """pair (its number), metric, layer, module, value, exact, error_bound."""
    reasons: list[str | None]
    identical: list[bool]


def pair_rows(found: Tensors, pairs: Sequence[tuple[int, int]]) -> Rows:
    """Every value of these pairs of phases, the earlier one first."""
    at = {phase: i for i, phase in enumerate(found.phases)}
    a, b = (np.array([at[pair[side]] for pair in pairs], int) for side in (0, 1))
    comparable_TM = found.comparable[:, a, b]
    present_TM = found.present[:, a] | found.present[:, b]
    picked = {
        "square": found.square[:, a, b],
        "variance": found.variance[:, a, b],
        "rounding": found.rounding[:, a, b],
        "norm_a": found.norms[:, a] ** 2,
        "norm_b": found.norms[:, b] ** 2,
    }
    exact_TM = found.exact[:, a, b]
    tables = []
    for key, members in _groups(found.keys):
        sums = {name: values[members].sum(0) for name, values in picked.items()}
        # The floor of rounding adds up like noise: independent tensors.
        sums["rounding"] = np.sqrt(np.square(picked["rounding"][members]).sum(0))
        use = comparable_TM[members].all(0) & present_TM[members].any(0) & (sums["norm_a"] > 0)
        tables.append(_values(key, sums, np.all(exact_TM[members], axis=0), use))
    table = pa.concat_tables(tables) if tables else PAIR_ROWS.empty_table()
    broken_2TM = np.stack([found.broken[:, a], found.broken[:, b]])
    reasons = [
        _reason(found.keys, ~comparable_TM[:, m], broken_2TM[:, :, m]) for m in range(len(pairs))
    ]
    identical = np.all(found.equal[:, a, b], axis=0) & present_TM.any(0)
    return Rows(table, reasons, identical.tolist())


PAIR_ROWS = pa.schema(
    [
        ("pair", pa.int64()), ("metric", pa.string()), ("layer", pa.int16()),
        ("module", pa.string()), ("value", pa.float64()), ("exact", pa.bool_()),
        ("error_bound", pa.float64()),
    ]
)  # fmt: skip


def _groups(keys: list[Key]) -> list[tuple[Key, list[int]]]:
    """Each tensor, then each module over its layers, each layer, and all; members by number."""
    single: list[tuple[Key, list[int]]] = [(key, [t]) for t, key in enumerate(keys)]
    groups: dict[Key, list[int]] = {}
    for t, (module, layer) in enumerate(keys):
        if layer is not None:
            groups.setdefault((module, None), []).append(t)
            groups.setdefault((TOTAL, layer), []).append(t)
        groups.setdefault((TOTAL, None), []).append(t)
    return [*single, *groups.items()]


def _values(key: Key, sums: dict[str, np.ndarray], exact: np.ndarray, use: np.ndarray) -> pa.Table:
    pairs = np.flatnonzero(use)
    square, variance, rounding = (sums[k][pairs] for k in ("square", "variance", "rounding"))
    norm_a, norm_b = np.sqrt(sums["norm_a"][pairs]), np.sqrt(sums["norm_b"][pairs])
    change, error = np.sqrt(square), DEVIATIONS * np.sqrt(variance)
    with np.errstate(divide="ignore", invalid="ignore"):
        of_change = np.where(change > 0, error / (2 * change), 0.0) + rounding
        product = norm_a * norm_b
        cosine = 1 - (square - (norm_a - norm_b) ** 2) / (2 * product)
        of_cosine = (error + 2 * rounding * change + rounding**2) / (2 * product)
    cosine = np.clip(cosine, -1, 1)
    module, layer = key
    there = product > 0
    columns = [
        ("relative_change", pairs, change / norm_a, of_change / norm_a),
        ("cosine", pairs[there], cosine[there], of_cosine[there]),
    ]
    tables = []
    for metric, which, value, bound in columns:
        n = len(which)
        certain = exact[which]
        tables.append(
            pa.table(
                [
                    pa.array(which, pa.int64()), pa.repeat(metric, n),
                    pa.repeat(pa.scalar(layer, pa.int16()), n), pa.repeat(module, n),
                    pa.array(value), pa.array(certain), pa.array(np.where(certain, 0.0, bound)),
                ],
                schema=PAIR_ROWS,
            )
        )  # fmt: skip
    return pa.concat_tables(tables)


def _reason(keys: list[Key], wrong_T: np.ndarray, broken_2T: np.ndarray) -> str | None:
    """Why some weights have no value; ``broken_2T`` are those of the earlier and later phase."""
    if not wrong_T.any():
        return None
    clauses = [
        f"NaN or Inf in {broken_T.sum():,} of the {side} phase ({_first(keys, broken_T)} first)"
        for side, broken_T in zip(("earlier", "later"), broken_2T, strict=True)
        if broken_T.any()
    ]
    other_T = wrong_T & ~broken_2T.any(0)
    if other_T.any():
        clauses.append(
            f"{other_T.sum():,} missing on one side, of another size, or sketched with another "
            f"width ({_first(keys, other_T)} first)"
        )
    return f"{wrong_T.sum():,} of {len(keys):,} weights cannot be compared: {', '.join(clauses)}."


def _first(keys: list[Key], which_T: np.ndarray) -> str:
    module, layer = keys[int(np.argmax(which_T))]
    return module if layer is None else f"{module} of layer {layer}"
