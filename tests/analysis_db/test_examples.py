"""The example queries answer, on a store with data."""

import pytest

from analysis_db.examples import EXAMPLES
from analysis_db.sandbox import run_sql
from tests.app.synthetic import build


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return build(tmp_path_factory.mktemp("examples"))


def answer(store, name):
    (example,) = (e for e in EXAMPLES if e.name == name)
    return run_sql(store, example.sql).table


@pytest.mark.parametrize("name", [e.name for e in EXAMPLES])
def test_an_example_returns_rows_without_empty_columns(store, name):
    table = answer(store, name)
    assert table.num_rows > 0
    assert not [c for c in table.column_names if table[c].null_count == table.num_rows]


def test_names_are_unique_and_say_what_is_asked():
    assert len({e.name for e in EXAMPLES}) == len({e.title for e in EXAMPLES}) == len(EXAMPLES)
    assert len(EXAMPLES) >= 12
    assert all(e.question.rstrip(".").endswith(("?", "only", "hint")) for e in EXAMPLES)


def test_growth_and_logits_are_right(store):
    first = answer(store, "residual-growth").to_pylist()[0]
    assert first["growth_of_norm"] == pytest.approx(((1 + 2.7) / (1 + 2.0)) ** 0.5, abs=1e-3)
    largest = answer(store, "largest-logits").to_pylist()[0]
    assert (largest["layer"], largest["head"], largest["max_logit"]) == (5, 1, 17.0)


def test_values_of_heads_are_not_mixed_with_whole_tensors(tmp_path):
    store = build(tmp_path)
    names = [e.name for e in EXAMPLES if "phase_metrics" in e.sql and e.name != "largest-logits"]
    before = {name: answer(store, name) for name in names}
    weights = store.table("SELECT * FROM data.measurement WHERE run_id = 'weights-27'")
    for probe in ("weights", "activations"):
        with store.write() as connection:
            connection.execute(
                "INSERT INTO data.measurement SELECT * REPLACE (0 AS head, 1e6 * value AS value) "
                "FROM data.measurement WHERE run_id LIKE $like AND value > 0 AND layer IS NOT NULL",
                {"like": f"{probe}-%"},
            )
    assert (
        weights.num_rows < store.table("FROM data.measurement WHERE run_id = 'weights-27'").num_rows
    )
    for name, table in before.items():
        now = answer(store, name)
        for column in set(table.column_names) - {"in_layer"}:  # of layers that jump alike, any
            assert now[column].to_pylist() == pytest.approx(table[column].to_pylist()), name
