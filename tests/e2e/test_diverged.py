"""Diverged checkpoints through the real command: sound rows keep values, the others say why not."""

import json
from math import inf, nan

import pytest
import torch
from safetensors.torch import load_file, save_file

from analysis_db import Store
from tests.e2e.command import workbench
from tests.fixtures.optimizer_states import BETAS, EPS, write_state
from tests.fixtures.tiny_checkpoint import write_yulan
from workbench.settings import Home

BLOCK = "model.layers.1."
UP, Q, BIAS = (
    BLOCK + n for n in ("mlp.up_proj.weight", "self_attn.q_proj.weight", "self_attn.q_proj.bias")
)
ALPHA, NORM = BLOCK + "self_attn.q_proj_alpha", "model.norm.weight"
EMBED = "model.embed_tokens.weight"
SOUND, MATRIX, INF, ALL, OF_BIAS, OF_NORM, OF_ALPHA, OF_STATE, COPY, HEAD, TOKEN = range(1, 12)
DAMAGE = {
    MATRIX: [(UP, nan, slice(3, 6))],
    INF: [(UP, inf, slice(3, 4))],
    OF_BIAS: [(BIAS, nan, slice(1))],
    OF_NORM: [(NORM, nan, slice(1))],
    OF_ALPHA: [(ALPHA, nan, slice(1))],
    COPY: [(UP, nan, slice(3, 6))],
    HEAD: [(Q, nan, slice(2))],
    TOKEN: [(name, nan, slice(24_000, 24_002)) for name in (EMBED, "lm_head.weight")],
}
SETTINGS = (
    "loss.bytes_per_domain=1500",
    "loss.window=64",
    "benchmarks.limit=6",
    "optimizer.lr=0.1",
    f"optimizer.eps={EPS}",
    f"optimizer.beta1={BETAS[0]}",
    f"optimizer.beta2={BETAS[1]}",
)
PROBES = "weights,spectra,changes,loss,optimizer,benchmarks"


def damage(folder, tensor, value, where):
    state = load_file(folder / "model.safetensors")
    state[tensor].reshape(-1)[where] = value
    save_file(state, folder / "model.safetensors", {"format": "pt"})


def phases(home, numbers):
    """A suite of these phases on a local Hub, each in bfloat16."""
    rows = [f"{n},o/p{n},miniyulan,{n / 2},true" for n in numbers]
    header = "phase,repo_id,model_type,tokens_b,has_optimizer"
    (home / "suites/bad/phases.csv").write_text("\n".join([header, *rows]))
    (home / "suites/bad.toml").write_text(
        'name = "bad"\ntitle = "Bad"\nphases = "bad/phases.csv"\n'
        'local_hub = "bad/hub"\ncache_dir = "../hub"\n'
    )


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    """(store, the command's stderr) after all probes measured all phases."""
    home = tmp_path_factory.mktemp("diverged") / "home"
    for number in range(SOUND, TOKEN + 1):
        folder = home / f"suites/bad/hub/o/p{number}"
        write_yulan(folder, seed=1, dtype=torch.bfloat16)
        write_state(folder)
        for planted in DAMAGE.get(number, ()):
            damage(folder, *planted)
    everything = home / f"suites/bad/hub/o/p{ALL}/model.safetensors"
    broken = {n: torch.full_like(t, nan) for n, t in load_file(everything).items()}
    save_file(broken, everything, {"format": "pt"})
    state = home / f"suites/bad/hub/o/p{OF_STATE}"
    (zero,) = state.glob("global*_universal/zero")
    file = zero / UP / "exp_avg.pt"
    if not file.exists():
        file = next(p for p in zero.iterdir() if "1.mlp.up_proj" in p.name) / "exp_avg.pt"
    moments = torch.load(file, weights_only=True)
    moments["param"].view(-1)[3] = nan
    torch.save(moments, file)
    phases(home, range(SOUND, TOKEN + 1))
    workbench("pull", "bad", "--with-optimizer", home=home)
    options = [word for setting in SETTINGS for word in ("--set", setting)]
    done = workbench("probe", "bad", "--probes", PROBES, *options, home=home)
    return Store(Home(home).store), " ".join(done.stderr.split())


Key = tuple[str, ...]
PLACE = "metric, view, module, layer, head, domain"


def measured(store, probe, phase):
    """(values, reasons) by metric, view, module, layer, head and domain."""
    found = []
    for what, view in (("value", "phase_metrics"), ("reason", "missing_values")):
        rows = store.table(
            f"SELECT {PLACE}, {what} FROM {view} WHERE probe = $probe AND phase = $phase",
            {"probe": probe, "phase": phase},
        ).to_pylist()
        found.append({tuple(list(row.values())[:-1]): row[what] for row in rows})
    return found


def test_no_job_fails_and_nothing_but_sentences_is_printed(probed):
    store, said = probed
    statuses = store.table("SELECT DISTINCT status FROM runs")["status"].to_pylist()
    assert statuses == ["complete"]
    assert "Traceback" not in said
    assert "RuntimeWarning" not in said
    assert f"weights, phase {MATRIX}-{INF},{COPY}: NaN or Inf in {UP}. " in said


# Phase: what of weights (module, layer, head), of which view, has no values.
LOST = {
    MATRIX: {("up_proj", 1)},
    INF: {("up_proj", 1)},
    OF_BIAS: {("q_bias", 1)},
    OF_NORM: {("final_norm", None)},
    OF_ALPHA: {("q_proj", 1), ("q_bias", 1)},
    OF_STATE: set(),
    HEAD: {("q_proj", 1)},
    TOKEN: {("embed", None), ("lm_head", None)},
}


@pytest.mark.parametrize("probe", ["weights", "spectra"])
@pytest.mark.parametrize("phase", LOST)
def test_sound_tensors_keep_their_values_and_the_others_say_what_is_not_finite(
    probed, probe, phase
):
    store, _ = probed
    sound, usual_gaps = measured(store, probe, SOUND)
    values, reasons = measured(store, probe, phase)
    assert values.keys() | reasons.keys() == sound.keys() | usual_gaps.keys()
    lost = {key for key in sound if key not in values}
    for key in values:
        module, layer = key[2], key[3]
        if (module, layer) not in LOST[phase] and module not in ("total", "qk", "alpha"):
            assert values[key] == sound[key], key
    places = {(module, layer) for _, _, module, layer, _, _ in lost}
    products = {("qk", 1)} if ("q_proj", 1) in LOST[phase] and probe == "spectra" else set()
    of_probe = {p for p in LOST[phase] if probe == "weights" or "bias" not in p[0]}
    of_probe -= {("final_norm", None)} if probe == "spectra" else set()
    extra = {("total", None)} if probe == "weights" and phase not in (OF_BIAS, OF_NORM) else set()
    assert places == (of_probe | products | (extra if of_probe else set()))
    for key in lost:
        counted = "NaN in" in reasons[key] or "Inf in" in reasons[key]
        assert counted or (phase == OF_ALPHA and "the scale is nan" in reasons[key]), reasons[key]
    if probe == "weights" and phase in (MATRIX, INF):
        kind, n = ("NaN", 3) if phase == MATRIX else ("Inf", 1)
        for view in ("stored", "effective"):
            assert reasons["rms", view, "up_proj", 1, None, None] == (
                f"{kind} in {n} of 3,840 elements"
            )


def test_a_scale_that_is_nan_takes_the_effective_view_alone(probed):
    store, _ = probed
    for probe in ("weights", "spectra"):
        values, reasons = measured(store, probe, OF_ALPHA)
        own = {key[1] for key in reasons if key[2] == "q_proj" and key[3] == 1}
        assert "effective" in own
        stored = {key for key in values if key[1:4] == ("stored", "q_proj", 1)}
        assert stored
        assert not {key for key in values if key[1:4] == ("effective", "q_proj", 1)}
        gone = {reasons[k] for k in reasons if k[1:4] == ("effective", "q_proj", 1)}
        assert gone == {"the scale is nan"} or probe == "spectra"


def test_histograms_count_the_finite_elements(probed):
    store, _ = probed
    rows = store.table(
        "SELECT phase, view, list_sum(counts) AS n FROM histograms WHERE layer = 1 AND module = "
        "CASE phase WHEN $alpha THEN 'q_proj' ELSE 'up_proj' END",
        {"alpha": OF_ALPHA},
    ).to_pylist()
    counts = {(row["phase"], row["view"]): row["n"] for row in rows}
    for view in ("stored", "effective"):
        assert counts[SOUND, view] == 3840
        assert counts[MATRIX, view] == 3837
        assert counts[INF, view] == 3839
        assert counts[ALL, view] == 0
    assert (counts[OF_ALPHA, "stored"], counts[OF_ALPHA, "effective"]) == (2304, 0)


def test_a_broken_head_leaves_the_others_their_spectra(probed):
    store, _ = probed
    values, reasons = measured(store, "spectra", HEAD)
    heads = {key[4] for key in values if key[:4] == ("spectral_norm", "stored", "q_proj", 1)}
    assert heads == {1, 2, 3, 4, 5}
    assert reasons["spectral_norm", "stored", "q_proj", 1, 0, None] == "NaN in 2 of 384 elements"
    assert {k[4] for k in values if k[:4] == ("spectral_norm", "stored", "qk", 1)} == heads
    assert reasons["spectral_norm", "stored", "qk", 1, 0, None] == (
        "q_proj: NaN in 2 of 384 elements"
    )


def test_a_checkpoint_of_nan_has_no_statistic_and_says_so(probed):
    store, _ = probed
    for probe in ("weights", "spectra"):
        values, reasons = measured(store, probe, ALL)
        assert values == {}
        assert all("NaN" in why or "the scale is nan" in why for why in reasons.values())


def test_losses_exist_where_all_logits_are_finite(probed):
    store, _ = probed
    sound, _ = measured(store, "loss", SOUND)
    for phase in (MATRIX, INF, ALL, OF_BIAS, OF_NORM, OF_ALPHA, HEAD, TOKEN):  # a tied head
        values, reasons = measured(store, "loss", phase)
        assert {key[0] for key in values} == {"tokens", "bytes"}
        assert all(value == sound[key] for key, value in values.items())
        for key, why in reasons.items():
            n = sound["tokens", *key[1:]]
            assert why == f"NaN or Inf in the logits of {n:,.0f} of {n:,.0f} tokens"


def test_the_state_of_one_parameter_does_not_spoil_the_others(probed):
    store, _ = probed
    sound, _ = measured(store, "optimizer", SOUND)
    values, reasons = measured(store, "optimizer", OF_STATE)
    lost = {key for key in sound if key not in values}
    assert {(key[2], key[3]) for key in lost} == {("up_proj", 1), ("up_proj", None)}
    of_v = {
        "exp_avg_sq_sqrt_rms",
        "exp_avg_sq_sqrt_min",
        "exp_avg_sq_sqrt_max",
        "exp_avg_sq_sqrt_mean",
        "below_eps_fraction",
        "below_10eps_fraction",
    }
    assert not of_v & {key[0] for key in lost}
    assert {"exp_avg_mean", "update_rms", "update_ratio", "snr_mean"} <= {key[0] for key in lost}
    for key in lost:
        n = 3840 if key[3] == 1 else 11520
        assert reasons[key] == f"NaN in 1 of {n:,} elements of exp_avg"
    assert all(values[key] == sound[key] for key in values)


def test_pairs_with_a_diverged_side_have_a_reason_and_no_identity(probed):
    store, _ = probed
    rows = store.table("SELECT phase_a, phase_b, identical, reason FROM pair_runs").to_pylist()
    pairs = {(row["phase_a"], row["phase_b"]): row for row in rows}
    assert pairs[SOUND, MATRIX]["reason"] == (
        "1 of 39 weights cannot be compared: NaN or Inf in 1 of the later phase "
        "(up_proj of layer 1 first)."
    )
    assert pairs[MATRIX, OF_NORM]["reason"] == (
        "2 of 39 weights cannot be compared: NaN or Inf in 1 of the earlier phase "
        "(up_proj of layer 1 first), NaN or Inf in 1 of the later phase (final_norm first)."
    )
    # Phases 2 and 9 are the same bytes; 1 and 8 differ in the state of the optimizer alone.
    identical = {pair for pair, row in pairs.items() if row["identical"]}
    assert identical == {(SOUND, OF_STATE), (MATRIX, COPY)}
    numbers = store.table(
        "SELECT DISTINCT phase_a, phase_b FROM pair_metrics WHERE module = 'up_proj' AND layer = 1"
    ).to_pylist()
    assert not {MATRIX, INF, ALL, COPY} & {p for row in numbers for p in row.values()}
    whole = store.table("SELECT * FROM pair_metrics WHERE phase_b = $p", {"p": ALL})
    assert whole.num_rows == 0


def test_sketches_of_diverged_tensors_are_empty_and_tell_each_other_apart(probed):
    store, _ = probed
    rows = store.table(
        'SELECT phase, norm, digest, len("values") AS n FROM sketches '
        "WHERE kind = 'weight' AND module = 'up_proj' AND layer = 1"
    ).to_pylist()
    of = {row["phase"]: row for row in rows}
    for phase in (MATRIX, INF, ALL, COPY):
        assert (of[phase]["n"], of[phase]["norm"]) == (0, 0)
    assert of[MATRIX]["digest"] == of[COPY]["digest"]
    assert len({of[phase]["digest"] for phase in (SOUND, MATRIX, INF, ALL)}) == 4
    _, reasons = measured(store, "changes", MATRIX)
    assert reasons == {
        ("relative_change", "effective", "up_proj", 1, None, None): "NaN in 3 of 3,840 elements"
    }


def test_benchmarks_of_a_diverged_model_have_no_score(probed):
    store, said = probed
    scores = store.table("SELECT DISTINCT phase FROM benchmarks")["phase"].to_pylist()
    assert not {MATRIX, INF, ALL, OF_BIAS, OF_NORM, OF_ALPHA, HEAD, COPY, TOKEN} & set(scores)
    assert {SOUND, OF_STATE} <= set(scores)
    _, reasons = measured(store, "benchmarks", MATRIX)
    assert {(key[0], key[2]) for key in reasons} == {
        ("acc", "continuation_choice"),
        ("acc_norm", "continuation_choice"),
        ("acc", "last_word"),
        ("perplexity", "last_word"),
    }
    assert reasons["acc", None, "last_word", None, None, None] == (
        "NaN or Inf in the logits of 6 of 6 requests"
    )
    assert "last_word has no score (NaN or Inf in the logits of 6 of 6 requests)" in said
    notes = store.table(
        "SELECT notes FROM runs WHERE probe = 'benchmarks' AND phase = $p", {"p": MATRIX}
    )["notes"].to_pylist()
    assert all("no score" in json.loads(note)["warning"] for note in notes)
