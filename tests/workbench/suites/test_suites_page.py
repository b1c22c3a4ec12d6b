"""The page on suites: its examples work, and it names every field."""

import re
from pathlib import Path

from workbench.settings import Home
from workbench.suites import Suite, load_suite
from workbench.suites.blocks import Block
from workbench.suites.files import SuiteHead
from workbench.suites.models import Phase

PAGE = (Path(__file__).parents[3] / "docs" / "suites.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```toml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def example(number: int, home: Home, name: str, suite: str = "") -> Suite:
    (home.suites / f"{name}.toml").write_text(EXAMPLES[number], encoding="utf-8")
    return load_suite(suite or name, home)


def test_steps(home: Home) -> None:
    phases = example(0, home, "mine").phases
    assert [p.revision for p in phases] == [f"step{n}" for n in (0, 512, *range(1000, 5001, 1000))]
    assert phases[2].tokens_seen_b == 2.097152


def test_a_pattern(home: Home) -> None:
    names = ("stage1-step9-tokens4B", "stage2-try1-step2", "stage2-try2-step2", "other")
    for name in ("", *(f"@{name}" for name in names)):
        (home.root / "hub" / "me" / f"my-model{name}").mkdir(parents=True)
    toml = home.suites / "mine.toml"
    toml.write_text('local_hub = "../hub"\n' + EXAMPLES[1], encoding="utf-8")
    phases = load_suite("mine", home).phases
    assert [(p.label, p.stage, p.end_step) for p in phases] == [
        ("stage1-step9-tokens4B", "stage1", 9),
        ("stage2-try1-step2", "stage2-try1", 11),
        ("stage2-try2-step2", "stage2-try2", 11),
        ("average", "average", None),
    ]


def test_a_folder(home: Home) -> None:
    (home.suites / "output" / "checkpoint-500").mkdir(parents=True)
    (phase,) = example(2, home, "mine").phases
    assert phase.folder == home.suites / "output" / "checkpoint-500"
    assert phase.tokens_seen_b == 500 * 524288 / 1e9


def test_a_family(home: Home) -> None:
    suite = example(3, home, "any", "tiny-2m-1")
    assert suite.title == "Tiny 2m, seed 1"
    assert [p.revision for p in suite.phases] == [f"seed1-step{n}" for n in (100, 200, 300)]
    assert len(EXAMPLES) == 4


def test_every_field_is_named_and_no_other() -> None:
    suite_part, _, rest = PAGE.partition("## Fields of a block")
    block_part, _, csv_part = rest.partition("## Phases in a CSV")

    def listed(text: str) -> set[str]:
        rows = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
        return {name for row in rows for name in re.findall(r"`(\w+)`", row)}

    assert listed(suite_part) == set(SuiteHead.model_fields)
    assert listed(block_part) == set(Block.model_fields)
    columns = re.findall(r"`(\w+)`", csv_part.partition("Numbers ascend")[0])
    assert set(columns) == Phase.model_fields.keys() - {"tokens_seen_b", "overrides"}
