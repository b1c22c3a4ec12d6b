"""The contract of a probe: what it declares, what it is given, what it returns.

A probe is a pure measurement. It is handed a checkpoint and its settings and returns Arrow tables;
it opens no file of its own, draws nothing and knows no SQL. Third parties register a probe class
under the entry-point group ``workbench.probes``; ours are registered in the same way.
"""

import hashlib
import math
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from importlib.resources.abc import Traversable
from typing import Any, ClassVar, Literal, Protocol, get_args

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

Need = Literal["tensors", "model", "optimizer"]
View = Literal["stored", "effective"]
Scope = Literal["all", "no_start", "no_massive"]
"""The tokens that a statistic is over: all, those without the start token of each window, or those
without the tokens whose RMS is more than 10 times the median token's at the site."""
SCOPES: tuple[Scope, ...] = get_args(Scope)

MEASUREMENTS = pa.schema(
    [
        ("metric", pa.string()),
        ("view", pa.string()),
        ("layer", pa.int16()),
        ("module", pa.string()),
        ("head", pa.int16()),
        ("domain", pa.string()),
        ("scope", pa.string()),
        ("value", pa.float64()),
        ("reason", pa.string()),
    ]
)
HISTOGRAMS = pa.schema(
    [
        ("metric", pa.string()),
        ("view", pa.string()),
        ("layer", pa.int16()),
        ("module", pa.string()),
        ("edges", pa.list_(pa.float64())),
        ("counts", pa.list_(pa.int64())),
    ]
)
BENCHMARKS = pa.schema(
    [
        ("task", pa.string()),
        ("parent", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("stderr", pa.float64()),
        ("n", pa.int64()),
        ("shots", pa.int32()),
        ("higher_is_better", pa.bool_()),
        ("task_version", pa.string()),
        ("task_hash", pa.string()),
        ("harness_version", pa.string()),
    ]
)
SKETCHES = pa.schema(
    [
        ("kind", pa.string()),
        ("view", pa.string()),
        ("layer", pa.int16()),
        ("module", pa.string()),
        ("values", pa.list_(pa.float32())),
        ("n", pa.int64()),
        ("norm", pa.float64()),
        ("digest", pa.string()),
    ]
)


class Metric(BaseModel):
    """One metric that a probe yields; ``docs/metrics.md`` and the store are filled from these."""

    model_config = ConfigDict(frozen=True)

    id: str
    formula: str
    """The formula as one line of text; the name must match it."""
    unit: str = ""
    source: str = ""
    """Paper, report section or code that defines the metric."""
    version: int = 1


class ProbeSettings(BaseModel):
    """Base of every probe's settings: unknown fields are refused, values are frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


@dataclass(frozen=True)
class Measuring:
    """What the engine tells a probe beside its settings."""

    device: str = "cpu"
    dtype: str = "float32"
    """The dtype the model computes in; statistics always accumulate in float64."""
    progress: Callable[[float], None] = lambda fraction: None
    """Called now and then with the fraction done, 0 to 1."""


@dataclass(frozen=True)
class Part:
    """A piece of a probe's work on a checkpoint that is a job, and a run, of its own."""

    name: str
    settings: ProbeSettings | None
    """Those of the piece alone; None when it is not run, for the reason given."""
    reason: str = ""


@dataclass
class Measurements:
    """Collects the rows of one run and hands them over as Arrow tables."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    histograms: list[dict[str, Any]] = field(default_factory=list)
    benchmarks: list[dict[str, Any]] = field(default_factory=list)
    sketches: list[dict[str, Any]] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)
    """Facts about the run that are no numbers, such as the hash of the token set. What stands under
    ``warning`` is told to the user: the end of a sentence that begins with the job's name."""

    def add(
        self,
        metric: str,
        value: float | None,
        *,
        view: str | None = None,
        layer: int | None = None,
        module: str | None = None,
        head: int | None = None,
        domain: str | None = None,
        scope: Scope = "all",
        reason: str | None = None,
    ) -> None:
        """One value. A value that does not exist is None with a reason, never NaN and never 0.

        A value of another ``scope`` than all appears in the view ``scoped_metrics`` only.
        """
        if value is not None and not math.isfinite(value):
            value, reason = None, reason or f"the result is {value}"
        assert value is not None or reason, f"{metric}: a missing value needs a reason"
        assert scope in SCOPES, f"{metric}: the scope {scope} is none of {', '.join(SCOPES)}"
        self.rows.append(
            {
                "metric": metric,
                "view": view,
                "layer": layer,
                "module": module,
                "head": head,
                "domain": domain,
                "scope": scope,
                "value": value,
                "reason": reason,
            }
        )

    def add_histogram(
        self,
        metric: str,
        edges: Iterable[float],
        counts: Iterable[int],
        *,
        view: str | None = None,
        layer: int | None = None,
        module: str | None = None,
    ) -> None:
        """One histogram: an edge more than counts, edges ascending."""
        row = {"metric": metric, "view": view, "layer": layer, "module": module}
        edges, counts = [float(e) for e in edges], [int(c) for c in counts]
        self.histograms.append({**row, "edges": edges, "counts": counts})

    def add_sketch(
        self,
        kind: str,
        values: np.ndarray,
        *,
        view: str | None = None,
        layer: int | None = None,
        module: str | None = None,
        n: int,
        norm: float,
        digest: str | None = None,
    ) -> None:
        """A small stand-in for a tensor or a set of activations, for metrics between phases.

        ``values`` in one dimension, kept in float32; ``n`` how many elements (or tokens) they stand
        for and ``norm`` their exact norm; equal ``digest`` means equal content.
        """
        self.sketches.append(
            {
                "kind": kind,
                "view": view,
                "layer": layer,
                "module": module,
                "values": np.asarray(values, np.float32),
                "n": n,
                "norm": norm,
                "digest": digest,
            }
        )

    def tables(self) -> dict[str, pa.Table]:
        """The filled tables by name: measurements, histograms, benchmarks, sketches."""
        filled = {
            "measurements": (self.rows, MEASUREMENTS),
            "histograms": (self.histograms, HISTOGRAMS),
            "benchmarks": (self.benchmarks, BENCHMARKS),
            "sketches": (self.sketches, SKETCHES),
        }
        return {
            name: pa.Table.from_pylist(rows, schema=schema)
            for name, (rows, schema) in filled.items()
            if rows
        }


class ProbedCheckpoint(Protocol):
    """What a probe may ask of a checkpoint (``workbench.checkpoints.Checkpoint`` serves it)."""

    config: dict[str, Any]

    def tensor_names(self) -> list[str]: ...

    def tensor(self, name: str) -> Any: ...

    def alphas(self) -> dict[str, float]: ...

    def roles(self) -> dict[str, tuple[Any, ...]]: ...

    def alpha_roles(self) -> dict[str, list[Any]]: ...

    def weights(self, view: View) -> Iterable[Any]: ...

    def both_views(self) -> Iterable[tuple[View, Any]]: ...

    def optimizer(self) -> Any: ...

    def load_model(self, *, device: str, dtype: str) -> Any: ...

    def load_tokenizer(self) -> Any: ...


class Probe(ABC):
    """Base of all probes; the class docstring of a probe lists the metric ids it yields.

    One instance measures one checkpoint, part after part, and may keep what the parts share.
    """

    id: ClassVar[str]
    version: ClassVar[int]
    """Raised whenever a value that the probe stores may change."""
    title: ClassVar[str]
    """One line for ``workbench probe --help`` and the docs."""
    needs: ClassVar[Need]
    Settings: ClassVar[type[ProbeSettings]] = ProbeSettings
    metrics: ClassVar[tuple[Metric, ...]]
    data: ClassVar[Traversable | None] = None
    """Folder of shipped files that the numbers depend on, such as the probe text."""

    @classmethod
    def data_digest(cls) -> str:
        """sha256 over names and contents of the shipped files; when it changes, jobs are redone.

        Notes on their origins (``.md``) do not count.
        """
        digest = hashlib.sha256()
        shipped = cls.data.iterdir() if cls.data is not None else ()
        for file in sorted(shipped, key=lambda entry: entry.name):
            if file.is_file() and not file.name.endswith(".md"):
                digest.update(file.name.encode() + b"\0" + file.read_bytes())
        return digest.hexdigest()

    @classmethod
    def parts(cls, settings: Any) -> list[Part]:
        """The pieces that may fail, and be repeated, each on its own; by default one, unnamed.

        A piece's settings come to that piece alone when they are asked for their parts. Raises
        UsageError for settings that cannot be met.
        """
        return [Part("", settings)]

    @classmethod
    def inputs_digest(cls, settings: Any) -> str:
        """Hash of the user's files that the settings name; when it changes, jobs are redone."""
        return ""

    @abstractmethod
    def measure(
        self, checkpoint: ProbedCheckpoint, settings: Any, measuring: Measuring
    ) -> Measurements:
        """Measure one checkpoint. ``settings`` is an instance of the class's ``Settings``."""


class UnusableProbeError(Exception):
    """Why a registered probe cannot be used, as the end of a sentence."""


def installed_probes() -> dict[str, type[Probe]]:
    """Every registered probe class that works, by id, sorted. Loads their modules (and torch)."""
    return _registered()[0]


def unusable_probes() -> dict[str, str]:
    """Id to one sentence, of every registered probe that :func:`installed_probes` leaves out."""
    return _registered()[1]


def installed_probe_ids() -> list[str]:
    """The ids alone, from the entry points' names, without importing any probe."""
    return sorted({entry.name for entry in entry_points(group="workbench.probes")})


def _registered() -> tuple[dict[str, type[Probe]], dict[str, str]]:
    """One package's mistake must not take the other probes away."""
    found: dict[str, type[Probe]] = {}
    unusable: dict[str, str] = {}
    packages: dict[str, str] = {}
    # Of two packages that claim an id, ours keeps it, or the first by name: the same every time.
    entries = sorted(
        entry_points(group="workbench.probes"), key=lambda e: (_package(e) != OURS, _package(e))
    )
    for entry in entries:
        package = packages.setdefault(entry.name, _package(entry))
        try:
            if package != _package(entry):
                raise UnusableProbeError(f"the package {package} has a probe of this id already")
            found[entry.name] = _checked(entry)
        except UnusableProbeError as error:
            unusable[entry.name] = (
                f"The probe {entry.name!r} of the package {_package(entry)} cannot be used: "
                f"{error}; update the package or uninstall it."
            )
    return dict(sorted(found.items())), unusable


OURS = "training-dynamics-workbench"


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else entry.value


def _checked(entry: EntryPoint) -> type[Probe]:
    try:
        probe = entry.load()
    except Exception as error:  # whatever a stranger's module does when it is imported
        line = traceback.format_exception_only(error)[-1].strip()
        raise UnusableProbeError(f"importing {entry.value} failed with {line}") from error
    if not (isinstance(probe, type) and issubclass(probe, Probe)):
        raise UnusableProbeError(f"{entry.value} is no subclass of probes.base.Probe")
    lacking = [name for name in ("id", "version", "title", "needs", "metrics")
               if not hasattr(probe, name)] + sorted(probe.__abstractmethods__)  # fmt: skip
    if lacking:
        raise UnusableProbeError(f"{entry.value} does not define {', '.join(lacking)}")
    if probe.id != entry.name:
        raise UnusableProbeError(f"{entry.value} calls itself {probe.id!r}")
    if probe.needs not in get_args(Need):
        raise UnusableProbeError(
            f"it needs {probe.needs!r}, not one of {', '.join(get_args(Need))}"
        )
    return probe
