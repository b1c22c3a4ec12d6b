"""Files that are wrong: each error names the file, the line and the field."""

import pytest

from tests.workbench.suites.conftest import Write
from tests.workbench.suites.test_suites import HEADER, ROWS, STEPS, TOML
from workbench.errors import WorkbenchError
from workbench.settings import Home
from workbench.suites.places import line_of

FAMILY = 'name = "my-{size}"\ntitle = "T"\n[family]\nsize = ["1m"]\n[[phases]]\nrepo_id = "o/a"\n'
FOUND = "title = 'F'\n[[phases]]\nrepo_id = 'o/a'\npattern = 'step(?P<step>[0-9]+)'\n"


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ('name = "mine', "is not valid TOML: Unterminated string"),
        (TOML.replace('title = "Mine"\n', ""), "line 1: field title: Field required"),
        (TOML + "license = 'MIT'\n", "line 4: field license: unknown; did you mean licence"),
        (TOML + "\n# more\nzzz = 1\n", "line 6: field zzz: unknown; known are name, title"),
        (TOML.replace('"Mine"', "3"), "line 2: field title: Input should be a valid string"),
        (
            TOML.replace('"mine/phases.csv"', "4"),
            r"line 3: field phases: give the path of a CSV, or \[\[ph",
        ),
        (TOML.replace("mine/phases", "none"), r"line 3: field phases: cannot read .*none\.csv"),
        (TOML.replace('phases = "mine/phases.csv"\n', ""), "field phases: Field required"),
        (TOML + "data_mix = 4\n", "line 4: field data_mix: .*valid string"),
        (TOML.replace('"mine"', '"yours"'), "line 1: field name: it has to be that of the file, m"),
        (TOML + "[overrides.3]\nx = 1.0\n", "line 4: field overrides.3: there is no such phase"),
        (STEPS + "[overrides.3]\nx = 1.0\n", "line 8: field overrides: with \\[\\[phases\\]\\]"),
        (
            STEPS + "contxt_length = 3\n",
            "8: field phases.0.contxt_length: unknown; did you mean co",
        ),
        (STEPS + "context_length = 'x'\n", "8: field phases.0.context_length: .*valid integer"),
        (STEPS + "pattern = 'a'\n", "line 2: field phases.0: give either steps or pattern"),
        (STEPS + "folder = 'a'\n", "line 2: field phases.0: give either repo_id or folder"),
        (STEPS.replace("step{step}", "s"), "line 2: field phases.0: with several steps, revision"),
        (STEPS.replace("{step}", "{stp}"), r"revision 'step\{stp\}' may hold \{step\}"),
        (
            STEPS.replace("10, to = 30", "30, to = 10"),
            "line 5: .*no step of 10 leads from 30 to 10",
        ),
        (STEPS.replace("to = 30", "to = 35"), "line 5: .*no step of 10 leads from 10 to 35"),
        (STEPS.replace("by = 10", "by = 10, x = 1"), r"line 5: .*steps\.2\.range\.x: unknown\.$"),
        (STEPS.replace("0, 8", "0, -8"), r"line 5: .*steps\.1\.number: .*greater"),
        (STEPS.replace("0, 8", "0, 10"), "line 2: field phases.0: a step is listed twice"),
        (STEPS + "after = 'x'\n", "line 8: field phases.0.after: no block before this one"),
        (STEPS + STEPS[15:] + "x = 1\n", "line 15: field phases.1.x: unknown; known are repo_id"),
        (FOUND.replace("[0-9]", "[0-9"), "line 4: field phases.0.pattern: no regular expression"),
        (FOUND + "revision = 'a'\n", "line 2: field phases.0: a pattern finds the revisions"),
        (FOUND + "label = '{x}'\n", r"label '\{x\}' may hold \{name\}, \{step\}"),
        (STEPS + STEPS[15:], "line 2: field phases: o/a@step0 is named 2 times"),
        ("title = 'T'\nphases = []\n", "line 2: field phases: there are none"),
        ("title = 'T'\n[[phases]]\nstage = 'a'\n", "line 2: field phases.0: give either repo_id"),
        (FAMILY.replace('"my-{size}"', '"mine"'), r"line 1: field name: .* has to hold \{size\}"),
        (FAMILY + "\n[more]\n", "line 8: field more: unknown"),
    ],
)
def test_a_wrong_toml(write: Write, home: Home, toml: str, says: str) -> None:
    with pytest.raises(WorkbenchError, match=says) as wrong:
        write(toml, HEADER + ROWS)
    assert str(wrong.value).startswith(str(home.suites / "mine.toml"))
    assert "\n" not in str(wrong.value)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (HEADER + ROWS.replace("2,stable", "two,stable"), "line 3: field phase: .*valid integer"),
        (HEADER + "\n" + ROWS.replace("0.5", "much"), "line 4: field tokens_b: .*valid number"),
        (HEADER + ROWS.replace("true", "perhaps"), "line 3: field has_optimizer: .*boolean"),
        (HEADER + ROWS + "7,stable\n", "line 6: field "),
        (HEADER + ROWS.replace("known,2,", "known,2,,"), "line 5: field "),
        (HEADER.replace("evidence", "evidenz") + ROWS, "field evidenz: unknown; did you mean evid"),
        (HEADER.replace("phase", "number") + ROWS, "line 2: field phase: Field required"),
        (HEADER + ROWS + ROWS, "line 6: field phase: 1 comes after 6"),
    ],
)
def test_a_wrong_csv(write: Write, home: Home, rows: str, says: str) -> None:
    with pytest.raises(WorkbenchError, match=says) as wrong:
        write(TOML, rows)
    assert str(wrong.value).startswith(str(home.suites / "mine" / "phases.csv"))


def test_a_suite_without_phases(write: Write) -> None:
    with pytest.raises(WorkbenchError, match=r"mine\.toml, line 3: field phases: there are none"):
        write(TOML, HEADER)


def test_the_line_of_a_value() -> None:
    text = 'a = 1\n[b.c]\nd = 2\n[[e]]\nf = 3\n[[e]]\n# f = 0\n"f" = 4\n[e.g]\n'
    assert [line_of(text, place) for place in (
        ("a",), ("b", "c", "d"), ("e", 0, "f"), ("e", 1, "f"), ("e", 1, "x"), ("b", "x"), ("y",)
    )] == [1, 3, 5, 8, 6, 1, 1]  # fmt: skip
