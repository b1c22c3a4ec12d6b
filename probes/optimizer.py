"""Statistics of the optimizer's state: Adam's averages, its updates, and the float32 weights."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field

from probes.base import (
    Measurements,
    Measuring,
    Metric,
    Probe,
    ProbedCheckpoint,
    ProbeSettings,
)
from probes.finite import NotFinite
from probes.optimizer_statistics import Sums, Update, add_weights, sums_of
from workbench.checkpoints.optimizer import Hyperparameters, ParameterState
from workbench.checkpoints.roles import parts

_ADAM = "Kingma & Ba 2015, arXiv 1412.6980, algorithm 1"
_CORRECTED = "m^ / (sqrt(v^) + eps), m^ = m / (1 - beta1^t), v^ = v / (1 - beta2^t)"
_MOMENTS = ("exp_avg", "exp_avg_sq_sqrt")
_UPDATES = ("update_rms", "update_max")


def _metrics() -> Iterable[Metric]:
    for name, what in zip(_MOMENTS, ("m", "sqrt(v)"), strict=True):
        square = "v" if name == "exp_avg_sq_sqrt" else "m^2"
        yield Metric(id=f"{name}_rms", formula=f"sqrt(mean {square})", source=_ADAM)
        for statistic in ("min", "max", "mean"):
            yield Metric(id=f"{name}_{statistic}", formula=f"{statistic} {what}", source=_ADAM)
    yield Metric(
        id="update_rms", formula=f"sqrt(mean u^2), u = {_CORRECTED}; before the rate", source=_ADAM
    )
    yield Metric(
        id="update_max", formula=f"max |u|, u = {_CORRECTED}; before the rate", source=_ADAM
    )
    plain = "m / (sqrt(v) + eps); where the state does not say its step"
    yield Metric(
        id="update_rms_uncorrected", formula=f"sqrt(mean u^2), u = {plain}", source="workbench"
    )
    yield Metric(id="update_max_uncorrected", formula=f"max |u|, u = {plain}", source="workbench")
    yield Metric(
        id="update_ratio",
        formula="lr update_rms / weight rms (of the float32 copy where the state has one); of a "
        "kind of module sqrt(sum (lr u)^2 / sum w^2)",
        source="Karpathy, makemore part 4; YuLan-Mini, arXiv 2412.17743",
    )
    for name, bound in (("below_eps_fraction", "eps"), ("below_10eps_fraction", "10 eps")):
        yield Metric(
            id=name,
            formula=f"share of elements with sqrt(v) < {bound}",
            unit="fraction",
            source="workbench",
        )
    yield Metric(
        id="snr_mean", formula="mean |m| / sqrt(v) over elements with v > 0", source="workbench"
    )
    yield Metric(
        id="master_drift",
        formula="|p - w|_F / |p|_F, p the optimizer's float32 weight, w the checkpoint's",
        source="workbench",
    )


class OptimizerProbe(Probe):
    """exp_avg_rms, exp_avg_min, exp_avg_max, exp_avg_mean, exp_avg_sq_sqrt_rms,
    exp_avg_sq_sqrt_min, exp_avg_sq_sqrt_max, exp_avg_sq_sqrt_mean, update_rms, update_max,
    update_rms_uncorrected, update_max_uncorrected, update_ratio, below_eps_fraction,
    below_10eps_fraction, snr_mean, master_drift.

    m is exp_avg, v is exp_avg_sq. One row per parameter (module, layer), and one per kind of
    module over all its elements (layer NULL). A learnable scale is a module of its own, such as
    q_proj_alpha. The uncorrected updates are there only where the state holds no step.

    A metric has no value where a tensor that it is computed from has NaN or Inf; the reason is the
    count of these elements. The rows of other parameters keep their values.
    """

    id = "optimizer"
    version = 2
    title = "Adam's averages, updates and float32 weights of every parameter"
    needs = "optimizer"
    metrics = tuple(_metrics())

    class Settings(ProbeSettings):
        lr: float | None = Field(None, gt=0)
        """Learning rate at the checkpoint; default: the state's own, where it keeps one."""
        matrix_lr: float | None = Field(None, gt=0)
        """Learning rate of the layers' matrices where it differs (muP); default: lr."""
        eps: float | None = Field(None, gt=0)
        """Adam's eps, for a state that does not keep it."""
        beta1: float | None = Field(None, ge=0, lt=1)
        """Adam's beta1, for a state that does not keep it."""
        beta2: float | None = Field(None, ge=0, lt=1)
        """Adam's beta2, for a state that does not keep it."""

    def measure(
        self,
        checkpoint: ProbedCheckpoint,
        settings: "OptimizerProbe.Settings",
        measuring: Measuring,
    ) -> Measurements:
        state = checkpoint.optimizer()
        kinds: dict[str, _Part] = {}
        found = Measurements(notes={"optimizer_layout": state.layout})
        for done, parameter in enumerate(state.parameters(), 1):
            weights = parts(checkpoint.tensor(parameter.name), parameter.roles)
            for (role, of_role), weight in zip(parameter.parts(), weights, strict=True):
                matrix = role.layer is not None and role.is_matrix
                part = _measured(of_role, _rules(settings, parameter.said, matrix))
                add_weights(part.sums, weight, of_role.fp32)
                if role.layer is not None:
                    part.add_to(found, role.module, role.layer)
                kinds[role.module] = kinds.get(role.module, _NOTHING) + part
            measuring.progress(0.99 * done / len(state.names))
        for module, kind in kinds.items():
            kind.add_to(found, module, None)
        measuring.progress(1.0)
        return found


@dataclass
class _Part:
    """The sums of one parameter or of a kind, and why some metrics cannot be had of them."""

    sums: Sums
    corrected: bool
    reasons: dict[str, str] = field(default_factory=dict)
    """By the name of what is missing: updates, eps, lr, fp32."""

    def __add__(self, other: "_Part") -> "_Part":
        return _Part(
            self.sums + other.sums,
            self.corrected and other.corrected,
            self.reasons | other.reasons,
        )

    def add_to(self, found: Measurements, module: str, layer: int | None) -> None:
        for metric, value in self._values():
            if isinstance(value, str):
                found.add(metric, None, reason=value, module=module, layer=layer)
            else:
                found.add(metric, float(value), module=module, layer=layer)

    def _values(self) -> Iterator[tuple[str, float | str]]:
        s, why = self.sums, self.reasons
        m = self._broken(s.m_broken, "exp_avg")
        r = self._broken(s.r_broken, "sqrt(exp_avg_sq)")
        of_m = (s.m_square / s.n) ** 0.5, s.m_min, s.m_max, s.m / s.n
        of_r = (s.r_square / s.n) ** 0.5, s.r_min, s.r_max, s.r / s.n
        for moment, broken, values in zip(_MOMENTS, (m, r), (of_m, of_r), strict=True):
            for statistic, value in zip(("rms", "min", "max", "mean"), values, strict=True):
                yield f"{moment}_{statistic}", broken or value
        update = (s.u_square / s.n) ** 0.5, s.u_max
        missing = why.get("update") or m or r
        if self.corrected:
            for metric, value in zip(_UPDATES, update, strict=True):
                yield metric, missing or value
        else:
            for metric, value in zip(_UPDATES, update, strict=True):
                yield metric, "the state does not say its step"
                yield f"{metric}_uncorrected", missing or value
        yield "update_ratio", self._ratio(m, r)
        yield "below_eps_fraction", why.get("eps") or r or s.below_eps / s.n
        yield "below_10eps_fraction", why.get("eps") or r or s.below_10eps / s.n
        snr = s.snr / s.snr_n if s.snr_n else "v is zero everywhere"
        yield "snr_mean", m or r or snr
        yield "master_drift", self._drift()

    def _broken(self, found: NotFinite, tensor: str) -> str | None:
        return found.reason(self.sums.n, f"elements of {tensor}") if found else None

    def _broken_weight(self) -> str | None:
        what = "the weight" if "fp32" in self.reasons else "the float32 weight"
        return self._broken(self.sums.weight_broken, what)

    def _ratio(self, m: str | None, r: str | None) -> float | str:
        missing = next((self.reasons[k] for k in ("update", "lr") if k in self.reasons), None)
        if not self.corrected:
            return "the state does not say its step"
        missing = missing or m or r or self._broken_weight()
        if missing is not None:
            return missing
        if self.sums.weight_square == 0:
            return "the weight is zero everywhere"
        return (self.sums.rate_u_square / self.sums.weight_square) ** 0.5

    def _drift(self) -> float | str:
        if "fp32" in self.reasons:
            return self.reasons["fp32"]
        stored = self._broken(self.sums.stored_broken, "the checkpoint's weight")
        if broken := self._broken_weight() or stored:
            return broken
        if self.sums.fp32_square == 0:
            return "the float32 weight is zero everywhere"
        return (self.sums.drift_square / self.sums.fp32_square) ** 0.5


_NOTHING = _Part(Sums(), corrected=True)


def _rules(settings: Any, said: Hyperparameters, matrix: bool) -> Hyperparameters:
    """Betas and eps as the state says them, else as set; the rate as set, else as the state says.

    The rate is the other way round since a state may already hold that of the step to come.
    """
    lr = settings.matrix_lr if matrix and settings.matrix_lr is not None else settings.lr
    return Hyperparameters(
        lr=said.lr if lr is None else lr,
        beta1=settings.beta1 if said.beta1 is None else said.beta1,
        beta2=settings.beta2 if said.beta2 is None else said.beta2,
        eps=settings.eps if said.eps is None else said.eps,
    )


def _measured(parameter: ParameterState, rules: Hyperparameters) -> _Part:
    step = parameter.step
    reasons: dict[str, str] = {}
    update = None
    needed = ("eps",) if step is None else ("beta1", "beta2", "eps")
    unknown = [name for name in needed if getattr(rules, name) is None]
    if unknown:
        reasons["update"] = _not_known(*unknown)
    elif step == 0:
        reasons["update"] = "no step has been taken"
    else:
        assert rules.eps is not None
        update = Update(rules.eps, step, rules.beta1, rules.beta2)
    if rules.eps is None:
        reasons["eps"] = _not_known("eps")
    if rules.lr is None:
        reasons["lr"] = _not_known("lr")
    if parameter.fp32 is None:
        reasons["fp32"] = "the state keeps no float32 weight"
    sums = sums_of(parameter.exp_avg, parameter.exp_avg_sq, update, eps=rules.eps, lr=rules.lr)
    return _Part(sums, step is not None, reasons)


def _not_known(*names: str) -> str:
    given = " ".join(f"--set optimizer.{name}=..." for name in names)
    return f"neither state nor settings say {', '.join(names)} (give {given})"
