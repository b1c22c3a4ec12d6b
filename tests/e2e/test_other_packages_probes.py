"""The package of docs/probes.md through the real command, store and dashboard; and broken ones."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from analysis_db import Store
from app.options import MAIN
from tests.app.reading import shown
from tests.e2e.command import workbench
from tests.fixtures.tiny_checkpoint import write_yulan
from workbench.checkpoints import Checkpoint
from workbench.settings import Home

DOC = Path(__file__).parents[2] / "docs" / "probes.md"


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", DOC.read_text(encoding="utf-8"), re.DOTALL)


def install(package, target):
    """Build a package from its pyproject.toml into ``target``, metadata and all, without an index.

    These are the two steps of an installation that need no other tool than setuptools.
    """
    subprocess.run(
        [sys.executable, "-c", "import setuptools; setuptools.setup()", "-q",
         "egg_info", "--egg-base", str(target), "build", "--build-lib", str(target)],
        cwd=package,
        check=True,
    )  # fmt: skip


def package(folder, name, module, content):
    """Write a package like the documented one under another name."""
    (pyproject,) = blocks("toml")
    folder.mkdir()
    text = pyproject.replace("sign-balance", name).replace("sign_balance", module)
    (folder / "pyproject.toml").write_text(text.replace("SignBalance", "TheProbe"))
    (folder / f"{module}.py").write_text(content)
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home with a suite of two tiny phases that lie on this machine."""
    folder = tmp_path_factory.mktemp("third-party") / "home"
    for seed, name in enumerate(("one", "two")):
        write_yulan(folder / "suites" / "made" / name, seed=seed)
    (folder / "suites" / "tiny.toml").write_text(
        'name = "tiny"\ntitle = "Tiny"\n'
        '[[phases]]\nfolder = "made/one"\n[[phases]]\nfolder = "made/two"\n'
    )
    return folder


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The documented package, written down as documented and installed."""
    folder = tmp_path_factory.mktemp("packages")
    (pyproject,), (module,) = blocks("toml"), blocks("python")
    source, target = folder / "sign-balance", folder / "site"
    source.mkdir()
    target.mkdir()
    (source / "pyproject.toml").write_text(pyproject)
    (source / "sign_balance.py").write_text(module)
    assert len(module.splitlines()) <= 40
    install(source, target)
    return target


@pytest.fixture(scope="module")
def measured(home, installed):
    words = ("probe", "tiny", "--probes", "sign_balance", "--set", "sign_balance.threshold=0.001")
    workbench(*words, home=home, installed=installed)
    return home


def test_the_documented_probe_measures_into_the_store(measured):
    rows = Store(Home(measured).store).table(
        "SELECT phase, module, layer, value FROM phase_metrics WHERE probe = 'sign_balance'"
    )
    found = {(r["phase"], r["module"], r["layer"]): r["value"] for r in rows.to_pylist()}
    checkpoint = Checkpoint.open(measured / "suites" / "made" / "two")
    for weight in checkpoint.weights("effective"):
        w = weight.tensor
        share = int((w > 0.001).sum()) / int((w.abs() > 0.001).sum())
        assert found[2, weight.module, weight.layer] == pytest.approx(share)
    (run,) = (
        Store(Home(measured).store)
        .table("SELECT settings, probe_version FROM runs WHERE phase = 1")
        .to_pylist()
    )
    assert run == {"settings": '{"threshold": 0.001}', "probe_version": 1}


def test_status_metrics_and_a_second_run_know_it(measured, installed):
    def said(*words):
        return json.loads(workbench(*words, "--json", home=measured, installed=installed).stdout)

    status = said("status", "tiny")
    assert [row["sign_balance"] for row in status] == ["measured", "measured"]
    assert [row["weights"] for row in status] == ["missing", "missing"]
    (metric,) = said("metrics", "sign_balance")
    assert metric["metric"] == "positive_share"
    assert metric["formula"] == "#(w > t) / #(|w| > t)"
    again = ("probe", "tiny", "--probes", "sign_balance", "--set", "sign_balance.threshold=0.001")
    assert said(*again) == []


def test_the_generic_page_shows_it(measured, monkeypatch):
    monkeypatch.setenv("WORKBENCH_HOME", str(measured))
    app = AppTest.from_file(str(MAIN), default_timeout=30).run()
    app.switch_page("screens/probe.py").run()
    assert not app.exception
    assert app.selectbox("any_probe").options == ["sign_balance"]
    assert app.selectbox("any_sign_balance_metric").value == "positive_share"
    app.selectbox("any_sign_balance_module").select("down_proj").run()
    assert not app.exception
    said = " ".join(shown(element.value) for element in app.markdown)
    assert "**positive_share** [fraction] = `#(w > t) / #(|w| > t)`" in said


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("import nowhere_to_be_found", "failed with ModuleNotFoundError: No module named 'nowhere"),
        ("class TheProbe:\n    id = 'broken'", "is no subclass of probes.base.Probe"),
        (
            "from probes.base import Probe\n\nclass TheProbe(Probe):\n    id = 'other'\n"
            "    version = 1\n    title = 'x'\n    needs = 'tensors'\n    metrics = ()\n"
            "    def measure(self, checkpoint, settings, measuring): ...\n",
            "calls itself 'other'",
        ),
        (
            "from probes.base import Probe\n\nclass TheProbe(Probe):\n    id = 'broken'\n",
            "does not define version, title, needs, metrics, measure",
        ),
    ],
    ids=["import", "no probe", "other id", "incomplete"],
)
def test_a_broken_package_is_named_and_takes_nothing_away(tmp_path, home, content, reason):
    target = tmp_path / "site"
    target.mkdir()
    install(package(tmp_path / "broken", "broken-package", "broken", content), target)
    known = workbench("metrics", "weights", "--json", home=home, installed=target)
    assert json.loads(known.stdout)
    sentence = "The probe 'broken' of the package broken-package cannot be used: "
    assert known.stderr.startswith(sentence)
    assert reason in known.stderr
    assert len(known.stderr.splitlines()) == 1
    named = workbench("probe", "tiny", "--probes", "broken", home=home, expect=2, installed=target)
    assert named.stderr.startswith(f"Error: {sentence}")


def test_a_broken_package_leaves_the_other_probes_at_work(tmp_path, home):
    target = tmp_path / "site"
    target.mkdir()
    install(package(tmp_path / "broken", "broken-package", "broken", "1 / 0"), target)
    words = ("probe", "tiny", "--phases", "1", "--probes", "weights")
    done = workbench(*words, "--json", home=home, installed=target)
    assert [row["status"] for row in json.loads(done.stdout)] == ["measured"]
    assert "package broken-package cannot be used" in done.stderr


def test_an_id_that_is_taken_stays_with_its_owner(tmp_path, home):
    target = tmp_path / "site"
    target.mkdir()
    content = "raise RuntimeError('must not be loaded')"
    install(package(tmp_path / "second", "a-second-loss", "loss", content), target)
    done = workbench("metrics", "bits_per_byte", "--json", home=home, installed=target)
    assert [row["probe"] for row in json.loads(done.stdout)] == ["loss"]
    assert "the package training-dynamics-workbench has a probe of this id already" in done.stderr
