"""What the store has of each suite, to tell whose name it is."""

from dataclasses import dataclass

from analysis_db.store import Store

_RECORDS = """
SELECT suite, s.title, s.definition, r.suite IS NOT NULL AS results
FROM data.suite s FULL JOIN data.suite_with_results r USING (suite) ORDER BY suite
"""


@dataclass(frozen=True)
class SuiteRecord:
    """A suite, or results under the name of one."""

    title: str | None
    """None, as ``definition`` is, where there are results alone."""
    definition: str | None
    """None also where a workbench recorded the suite that did not keep its definition."""
    results: bool


def suite_records(store: Store) -> dict[str, SuiteRecord]:
    """The records by name; none when there is no store yet."""
    if not store.path.exists():
        return {}
    rows = store.table(_RECORDS).to_pylist()
    return {row.pop("suite"): SuiteRecord(**row) for row in rows}


def set_definition(store: Store, suite: str, definition: str) -> None:
    """Record that another definition is that of the suite and of its results from now on."""
    with store.write() as connection:
        connection.execute(
            "UPDATE data.suite SET definition = $definition WHERE suite = $suite",
            {"suite": suite, "definition": definition},
        )
