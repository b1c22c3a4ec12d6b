"""Every fault of a server ends with the right files or with one sentence."""

import json
import re
from contextlib import suppress
from pathlib import Path

import pytest

from tests.faults.cases import CASES, Case, see
from tests.faults.faults import replace
from tests.faults.faulty_hub import Rule
from tests.faults.stage import Stage, faulty
from workbench.hub.failures import HubError
from workbench.hub.pull import pull_phase


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_right_files_or_one_sentence(case: Case, stage: Stage, tmp_path: Path) -> None:
    seen = see(stage, case, tmp_path / "cache")
    assert not seen.wrong
    if case.sentence is None:
        assert seen.message is None
        assert case.again is None or seen.again <= case.again
    else:
        assert seen.message is not None
        assert "\n" not in seen.message
        assert re.search(rf"^Phase 1 of suite tiny.*{case.sentence}", seen.message)
        assert not case.keeps or seen.kept > 0


PLANTED = {
    "name": {"rfilename": "{outside}/a_universal/x"},
    "name upwards": {"rfilename": "../../../../outside/a_universal/x"},
    "hash": {"blobId": "{outside}/x"},
    "hash upwards": {"blobId": "../../../outside/x"},
    "commit": {"sha": "{outside}"},
    "commit upwards": {"sha": "../../../outside"},
}


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("planted", PLANTED.values(), ids=PLANTED.keys())
def test_no_listing_leads_out_of_the_cache(
    planted: dict[str, str], stage: Stage, tmp_path: Path
) -> None:
    """Whatever a mirror lists, nothing outside is written or removed."""
    suite, phase = stage.suite(tmp_path / "cache")
    outside = tmp_path / "outside"
    mine = [outside / "x", outside / "a_universal" / "x"]
    for file in mine:
        file.parent.mkdir(exist_ok=True)
        file.write_text("of the user")
    before = sorted(outside.rglob("*"))
    [(field, value)] = planted.items()
    value = value.format(outside=outside)

    def plant(body: bytes) -> bytes:
        model = json.loads(body)
        file = {"rfilename": "a_universal/x", "size": 11, "blobId": "e" * 40}
        model["siblings"].append(file)
        (model if field == "sha" else file)[field] = value
        return json.dumps(model).encode()

    rule = Rule(replace(plant), kind="info", times=None)
    # Whether it fails is its own affair.
    with faulty(stage.hub.endpoint, rule) as hub, suppress(HubError):
        pull_phase(suite, phase, endpoint=hub.endpoint, with_optimizer=True)
    assert sorted(outside.rglob("*")) == before
    assert {file.read_text() for file in mine} == {"of the user"}
