"""Scores as series and groups, and published ones beside those of the task that stands for them."""

import pandas as pd
import pytest

from app.benchmark_series import (
    OTHER,
    beside_published,
    by_group,
    imported_rows,
    with_series,
)
from app.figures.axis import phase_axis
from app.figures.benchmarks import compared_scores

TASKS = pd.DataFrame(
    [
        (None, "core", "arc", 0, None, None),
        ("ARC", "paper", "arc", 25, "acc_norm", None),
        ("MMLU", "paper", "mmlu", 5, "acc", None),
        ("RACE-middle", "paper", None, None, None, "there is none"),
        (None, "shipped", "word", None, None, None),
    ],
    columns=["benchmark", "task_group", "task", "shots", "metric", "reason"],
)


def score(
    task, value, *, shots=0, n=100, phase=1, source="measured", parent=None, metric="acc", own=True
):
    published = source == "published"
    return {
        "task": task, "value": value, "metric": metric, "shots": shots, "phase": phase,
        "n": None if published else n, "stderr": None if published else 0.02,
        "source": source, "parent": parent, "model": "M", "own": own,
    }  # fmt: skip


def test_series_tell_settings_apart_only_where_there_are_several():
    rows = pd.DataFrame(
        [score("arc", 0.3, shots=25), score("arc", 0.2), score("arc", 0.2, n=10), score("word", 0)]
    )
    assert with_series(rows)["series"].tolist() == [
        "arc, 25-shot", "arc, 0-shot, 100 documents", "arc, 0-shot, 10 documents", "word",
    ]  # fmt: skip


def test_groups_hold_their_tasks_in_their_shots_and_nothing_is_lost():
    rows = pd.DataFrame(
        [score("arc", 0.3, shots=25), score("arc", 0.2), score("word", 0.1, shots=3),
         score("mmlu", 0.3, shots=5), score("mmlu_law", 0.2, shots=5, parent="mmlu"),
         score("own", 0.5)]
    )  # fmt: skip
    found = {
        name: [(r.task, r.shots) for r in part.itertuples()]
        for name, part in by_group(rows, TASKS).items()
    }
    assert found == {
        "core": [("arc", 0)],
        "paper": [("arc", 25), ("mmlu", 5)],
        "shipped": [("word", 3)],
        "within mmlu": [("mmlu_law", 5)],
        OTHER: [("own", 0)],
    }


def compared():
    rows = [
        score("ARC", 61.5, source="published", shots=25),
        score("arc", 0.5, shots=25, metric="acc_norm"),
        score("arc", 0.4, shots=25, metric="acc_norm", phase=2),
        score("arc", 0.3, shots=25, metric="acc"),
        score("arc", 0.45, shots=25, metric="acc_norm", source="imported"),
        score("MMLU", 40.0, source="published", shots=5),
    ]
    return beside_published(pd.DataFrame(rows), TASKS)


def test_a_published_benchmark_stands_beside_its_task_in_percent():
    assert set(compared()) == {"ARC"}  # nothing measured stands for MMLU
    rows = compared()["ARC"].set_index(["series", "phase"])
    assert rows["value"].to_dict() == {
        ("measured: arc (25-shot, acc_norm, n = 100)", 1): 50.0,
        ("measured: arc (25-shot, acc_norm, n = 100)", 2): 40.0,
        ("imported: arc (25-shot, acc_norm, n = 100)", 1): 45.0,
        ("published: ARC (25-shot)", 1): 61.5,
    }
    assert rows["stderr"].dropna().tolist() == [2.0, 2.0, 2.0]


def test_the_figure_labels_each_source_and_bands_only_what_has_an_error():
    phases = pd.DataFrame(
        {"phase": [1, 2], "label": ["one", "two"], "stage": "stable", "step": [1, 2],
         "tokens_b": [1.0, 2.0]}
    )  # fmt: skip
    fig = compared_scores(compared()["ARC"], phase_axis(phases), title="ARC")
    markers = {trace.name: trace for trace in fig.data if trace.mode == "markers"}
    assert [name.partition(":")[0] for name in markers] == ["measured", "imported", "published"]
    published = markers["published: ARC (25-shot)"]
    assert published.marker.symbol.endswith("-open")
    assert "published, not measured here" in published.text[0]
    bands = [trace for trace in fig.data if trace.fill == "toself"]
    assert len(bands) == 2
    assert bands[0].y[0] == pytest.approx(50 + 1.96 * 2)
    assert "task sampling error" in fig.layout.yaxis.title.text


def test_no_score_of_another_or_an_unknown_model_stands_beside_the_published():
    rows = [
        score("ARC", 61.5, source="published", shots=25),
        score("arc", 0.45, shots=25, metric="acc_norm", source="imported"),
        score("arc", 0.9, shots=25, metric="acc_norm", source="imported", own=False),
        score("arc", 0.8, shots=25, metric="acc_norm", source="imported", own=None),
        score("MMLU", 40.0, source="published", shots=5),
        score("mmlu", 0.9, shots=5, source="imported", own=False),
    ]
    found = beside_published(pd.DataFrame(rows), TASKS)
    assert {name: sorted(part["value"]) for name, part in found.items()} == {"ARC": [45.0, 61.5]}
    listed = imported_rows(pd.DataFrame(rows).assign(imported_from="a.json"))
    assert listed[["of", "value"]].values.tolist() == [
        ["the suite", 0.45], ["another model", 0.9], ["an unknown model", 0.8],
        ["another model", 0.9],
    ]  # fmt: skip
