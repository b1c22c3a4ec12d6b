"""The dashboard's queries against a real store."""

import pytest

from analysis_db import queries
from tests.app.synthetic import ABSENT, DOMAINS, LAYERS, MISSING, STEPS


def test_suite_with_most_runs_comes_first(store):
    assert queries.suites(store)["suite"].tolist() == ["small", "bare"]


def test_phases_are_all_there_in_order(store):
    phases = queries.phases(store, "small")
    assert phases["phase"].tolist() == list(range(1, 28))
    assert phases.loc[phases["repo_id"].isna(), "phase"].tolist() == [ABSENT]
    assert queries.phases(store, "unknown").empty


def test_coverage_has_every_cell(store):
    coverage = queries.coverage(store, "small")
    assert len(coverage) == 27 * 5
    status = {(r.phase, r.probe): r.status for r in coverage.itertuples()}
    assert status[1, "loss"] == "measured"
    assert status[9, "loss"] == "failed"
    assert {status[MISSING, p] for p in coverage["probe"]} == {"missing"}
    assert {status[ABSENT, p] for p in coverage["probe"]} == {"absent"}


def test_failures_give_the_traceback(store):
    failures = queries.failures(store, "small")
    assert failures[["phase", "probe"]].values.tolist() == [[9, "loss"]]
    assert "start token" in failures["error"][0]


def test_metric_menu_knows_definition_and_coordinates(store):
    menu = queries.metric_menu(store, "small", "weights").set_index(["metric", "view", "module"])
    row = menu.loc["rms", "effective", "q_proj"]
    assert (row["by_layer"], row["by_head"], row["by_domain"]) == (True, False, False)
    assert row["formula"] == "sqrt(mean w^2) = frobenius / sqrt(mn)"
    assert not menu.loc["rms", "effective", "embed"]["by_layer"]
    assert queries.metric_menu(store, "small", "attention")["by_head"].all()


def test_what_was_measured_is_kept_as_it_is_counted(store):
    kept, counted = (
        store.table(f"FROM data.{name} ORDER BY ALL") for name in ("measured", "measured_of_values")
    )
    assert kept.num_rows > 100
    assert kept.to_pylist() == counted.to_pylist()
    values = store.table("FROM phase_metrics WHERE suite = 'small'").num_rows
    assert queries.totals(store, "small")["values"] == values


def test_metric_values_have_no_row_where_nothing_was_measured(store):
    values = queries.metric_values(store, "small", "weights", "rms", "effective", "q_proj")
    assert len(values) == 25 * LAYERS
    assert not {MISSING, ABSENT} & set(values["phase"])
    loss = queries.metric_values(store, "small", "loss", "nll", None, None)
    assert set(loss["domain"]) == set(DOMAINS)
    assert 9 not in set(loss["phase"])


def test_probes_with_values_are_not_those_with_scores_alone(store):
    probes = queries.probes_with_values(store, "small")["probe"].tolist()
    assert probes == ["activations", "attention", "loss", "weights"]
    assert queries.probes_with_values(store, "bare").empty


def test_places_of_extremes_have_their_tokens_text(store):
    places = queries.extreme_places(store, "small", "residual")
    assert len(places) == 25 * LAYERS * 3
    row = places[(places["phase"] == 2) & (places["layer"] == 1)].iloc[1]
    assert row.drop(["phase", "label"]).to_dict() == {
        "layer": 1, "rank": 2, "size": 450.0, "median": 0.5, "position": 0, "feature": 7,
        "token": 1, "text": "<s>",
    }  # fmt: skip
    assert queries.extreme_places(store, "small", "mlp").empty


def test_loss_by_position_and_the_tokens_it_is_of(store):
    values = queries.position_values(store, "small")
    first = values[(values["phase"] == 1) & (values["domain"] == "code")]
    assert first[["low", "high"]].values.tolist() == [
        [1, 15], [16, 31], [32, 63], [64, 127], [128, 255]
    ]  # fmt: skip
    assert first["nll"].tolist() == pytest.approx([7.1, 6.9, 6.7, 6.5, 6.3])
    assert first["tokens"].tolist() == [1000, 2000, 4000, 8000, 16000]
    assert queries.position_values(store, "unknown").empty
    sets = queries.token_sets(store, "small", "loss")
    assert dict(zip(sets["phase"], sets["token_set"], strict=True)) == {
        p: "a" if p < 26 else "b" for p in range(1, 28) if p not in (9, MISSING, ABSENT)
    }


def test_missing_values_give_the_reason(store):
    missing = queries.missing_values(
        store, "small", "activations", "residual_growth", None, "residual"
    )
    assert missing[["phase", "reason"]].values.tolist() == [[3, "made up"]]


def test_seam_shows_stored_effective_and_alpha(store):
    seam = queries.seam(store, "small", "rms", "q_proj")
    at = {(r.series, r.phase): r.value for r in seam.itertuples()}
    assert at["stored", 20] * at["alpha", 20] == pytest.approx(at["effective", 20])
    assert at["stored", 27] == pytest.approx(at["effective", 27])
    assert ("alpha", 27) not in at


def test_distribution_has_every_bin_and_shares_sum_to_one(store):
    bins = queries.distribution(store, "small", "effective", "q_proj", 2)
    assert bins.groupby("phase").size().unique().tolist() == [40]
    assert bins.groupby("phase")["share"].sum().to_numpy() == pytest.approx(1.0)
    assert (bins["high"] - bins["low"]).to_numpy() == pytest.approx(0.1)
    assert ABSENT not in set(bins["phase"])
    assert queries.distribution(store, "small", "stored", "embed", None).empty


def test_training_series(store):
    assert queries.training_runs(store, "small")["run"].tolist() == ["small"]
    menu = queries.training_menu(store, "small")
    assert set(menu["metric"]) == {"loss", "lr", "grad_norm", "hidden_variance"}
    assert len(queries.training_series(store, "small", "loss", None)) == 27 * STEPS
    layered = queries.training_series(store, "small", "hidden_variance", "residual")
    assert sorted(layered["layer"].unique()) == list(range(LAYERS))


def test_benchmarks_tell_measured_from_published(store):
    scores = queries.benchmarks(store, "small")
    assert len(scores[scores["source"] == "measured"]) == 25 * 4
    published = scores[scores["source"] == "published"]
    assert 26 in set(published["phase"])
    assert published["stderr"].isna().all()


@pytest.mark.parametrize("by", ["category", "bucket", "source_group"])
def test_mix_shares_sum_to_one_per_run(store, by):
    mix = queries.data_mix(store, "small", by)
    sums = mix.groupby(["phase", "run"])["share"].sum()
    assert sums.to_numpy() == pytest.approx(1.0)
    assert {run for phase, run in sums.index if phase == 26} == {"26-4k", "26-28k"}


def test_mix_refuses_other_columns(store):
    with pytest.raises(ValueError, match="no column 'source; DROP'"):
        queries.data_mix(store, "small", "source; DROP")


def test_views_are_described(store):
    views = queries.view_columns(store)
    assert {"phases", "phase_metrics", "coverage", "benchmarks"} <= set(views["view"])
    assert "value" in set(views.loc[views["view"] == "phase_metrics", "column"])
    assert views["about"].notna().all()
