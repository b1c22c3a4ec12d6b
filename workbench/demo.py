"""The whole path offline: train, publish, pull, probe, look for spikes. What is done is skipped."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from analysis_db.store import Store
from analysis_db.suite_records import suite_records
from workbench.downloads import pull_suite
from workbench.errors import UsageError, WorkbenchError
from workbench.settings import Home
from workbench.suites import CATALOGUE, load_suite
from workbench.suites.identity import identity_at

NAME = "demo"


@dataclass(frozen=True)
class Progress:
    """Told of each step's name, then of (done, total) within it."""

    step: Callable[[str], None]
    advance: Callable[[int, int], None]


def run_demo(home: Home, *, seed: int, progress: Progress) -> dict[str, int]:
    """Make the demo suite and measure it; returns counts of what is there in the end.

    Raises UsageError when the folder has a demo of another seed, or results of another suite that
    is named demo.
    """
    _check_seed(home, seed)
    _check_name(home)
    if not _trained(home):
        train_demo(home, seed=seed, progress=progress)
    progress.step("Pulling the checkpoints from the local Hub")
    rows = pull_suite(NAME, "all", home, with_optimizer=True, on_end=progress.advance)
    for row in rows:
        if row["status"] == "failed":
            raise WorkbenchError(row["message"])
    pulled = sum(row["status"] == "on disk" for row in rows)
    measured, values = _probe(home, progress)
    return {"checkpoints": pulled, "jobs": measured, "values": values}


def _run_folder(home: Home) -> Path:
    return home.runs / NAME


def _run_facts(home: Home) -> dict[str, object]:
    path = _run_folder(home) / "run.json"
    facts: dict[str, object] = {}
    if path.exists():
        facts = json.loads(path.read_text(encoding="utf-8"))
    return facts


def _check_seed(home: Home, seed: int) -> None:
    found = _run_facts(home).get("seed", seed)
    if found != seed:
        raise UsageError(
            f"{home.root} holds the demo of seed {found}: set WORKBENCH_HOME to another folder "
            f"for seed {seed}."
        )


def _check_name(home: Home) -> None:
    """Before the training, which takes minutes."""
    record = suite_records(Store(home.store)).get(NAME)
    own = identity_at(home.suites.resolve() / f"{NAME}.toml", home)
    if record is not None and record.results and record.definition not in (None, own):
        raise UsageError(
            f"The store has results of another suite named {NAME}, that of {record.definition}: "
            "set WORKBENCH_HOME to another folder for the demo."
        )


def _trained(home: Home) -> bool:
    return _run_facts(home).get("status") == "complete" and (home.suites / "demo.toml").exists()


def train_demo(home: Home, *, seed: int, progress: Progress) -> None:
    """Train the demo suite and write its repositories and its TOML under the home folder."""
    from workbench.training.corpus import (
        DOMAINS,
        allocate,
        load_documents,
        published_shares,
        train_tokenizer,
    )
    from workbench.training.publish import Publisher, write_suite
    from workbench.training.recipe import RECIPES, load_recipe
    from workbench.training.trainer import train

    recipe = load_recipe(RECIPES / "demo.toml")
    shares = published_shares(CATALOGUE / "yulan-mini" / "data_mix.csv")
    progress.step("Training the tokenizer")
    documents = {domain: load_documents(domain) for domain in DOMAINS}
    texts = [text for found in documents.values() for text in found]
    tokenizer = train_tokenizer(texts, recipe.tokenizer.vocab_size)
    hub = home.suites / NAME / "hub"
    publisher = Publisher(recipe, tokenizer, hub, NAME)
    progress.step(f"Training {recipe.phases} phases")
    train(
        recipe,
        tokenizer,
        documents,
        shares,
        _run_folder(home),
        seed=seed,
        suite=NAME,
        on_phase_end=publisher.publish,
        on_step=progress.advance,
    )
    sequences = {p: recipe.batch.tokens // recipe.context_length(p) for p in shares}
    domain_tokens = {
        phase: {
            domain: count * recipe.context_length(phase)
            for domain, count in allocate(
                recipe.steps_per_phase * sequences[phase], shares[phase]
            ).items()
        }
        for phase in shares
    }
    write_suite(
        publisher,
        domain_tokens,
        home.suites,
        NAME,
        training_log=f"../runs/{NAME}",
        local_hub=f"{NAME}/hub",
        cache_dir="../hub",
    )


def _probe(home: Home, progress: Progress) -> tuple[int, int]:
    from analysis_db.spikes import find_spikes, write_spikes
    from workbench.catalogue import record_suite
    from workbench.jobs import ProbeRequest, probe_suite

    progress.step("Measuring the checkpoints")
    record_suite(load_suite("yulan-mini", home), Store(home.store))
    done, total = 0, 0

    def planned(jobs: int) -> None:
        nonlocal total
        total = jobs

    def ended(outcome: object) -> None:
        nonlocal done
        done += 1
        progress.advance(done, total)

    result = probe_suite(ProbeRequest(NAME), home, on_plan=planned, on_end=ended)
    if result.failed:
        first = result.failed[0]
        raise WorkbenchError(
            f"{len(result.failed)} of {total} measurements failed, first {first.job.name}: "
            f"{first.error}; see `workbench failures demo`."
        )
    store = Store(home.store)
    progress.step("Searching the training log for spikes")
    write_spikes(store, find_spikes(store, NAME))
    sql = "SELECT count(*) AS n FROM phase_metrics WHERE suite = $s"
    values = store.table(sql, {"s": NAME})["n"][0].as_py()
    return len(result.outcomes) + len(result.plan.done), values
