"""Are all files there, whole, and what the indexes say of them?"""

from collections.abc import Iterator

from workbench.hub.audit.facts import Facts, Fault, Finding, Severity, some
from workbench.hub.cache import CONFIG, FORMS
from workbench.hub.shards import foreign_shard

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
"""Any one of them makes a tokenizer."""


def reachable(facts: Facts) -> Iterator[Finding]:
    """Is there a checkpoint at all, and may it be read?"""
    phase = facts.phase
    if phase.repo_id is None:
        if phase.folder is not None:
            yield facts.find(
                "note",
                "local-folder",
                "The checkpoint is a folder of this machine, and only the Hub is audited.",
                folder=str(phase.folder),
            )
        else:
            why = f" ({phase.evidence})" if phase.evidence else ""
            yield facts.find(
                "note", "not-published", f"No checkpoint of this phase was published{why}."
            )
    elif facts.fault is not None:
        doubt = "" if phase.confirmed else f" The catalogue was in doubt: {phase.evidence}."
        yield facts.find(
            "error",
            facts.fault.check,
            facts.fault.message + doubt,
            revision=phase.revision,
            confirmed=phase.confirmed,
        )


def files(facts: Facts) -> Iterator[Finding]:
    """Config, weights, tokenizer, and whether each can be read."""
    sizes = facts.sizes
    if CONFIG not in sizes:
        yield facts.find(
            "error",
            "missing-file",
            "config.json is missing, so that nobody knows what model the weights are of.",
            file=CONFIG,
        )
    if weights_form(facts) is None:
        shards = [name for name in sizes if name.startswith("model-")]
        lacking = (
            f"there are {len(shards)} shards without {FORMS[0]}.index.json"
            if shards
            else f"neither {FORMS[0]} nor {FORMS[1]} nor an index of shards is there"
        )
        yield facts.find(
            "error",
            "missing-file",
            f"There are no weights that can be loaded: {lacking}.",
            file=FORMS[0],
            there=sorted(sizes),
        )
    if not any(name in sizes for name in _TOKENIZERS):
        yield facts.find(
            "warning",
            "missing-file",
            f"There is no tokenizer ({', '.join(_TOKENIZERS)}): the weights can be studied, but "
            "nothing that needs text.",
            file=_TOKENIZERS[0],
        )
    for name, fault in (*facts.faults(facts.texts), *facts.faults(facts.headers)):
        yield facts.find("error", fault.check, fault.message, file=name, bytes=sizes[name])


def weights_form(facts: Facts) -> str | None:
    """The form of weights that is read: the name it has in one file; None when there is none."""
    names = facts.sizes
    for single in FORMS:
        if single in names or f"{single}.index.json" in names:
            return single
    return None


def indexes(facts: Facts) -> Iterator[Finding]:
    """Do the indexes name the shards that are there, and their tensors?"""
    form = weights_form(facts)
    for single in FORMS:
        index = f"{single}.index.json"
        listed = facts.texts.get(index)
        if listed is None or isinstance(listed, Fault):
            continue
        # What is not read cannot spoil a measurement.
        severity: Severity = "error" if single == form else "warning"
        weight_map = listed.get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            yield facts.find(
                severity, "broken-file", f"{index} has no weight_map, so that no tensor is found.",
                file=index,
            )  # fmt: skip
            continue
        if foreign := foreign_shard(weight_map, single):
            yield facts.find(
                severity,
                "foreign-shard",
                f"{foreign}: it could be the weights of another checkpoint, and the phase is not "
                "measured.",
                file=index,
            )
            continue
        yield from _shards(facts, single, severity, facts.shards(single) or set())
        if single == FORMS[0]:
            yield from _promised(facts, index, {str(t): str(n) for t, n in weight_map.items()})


def _shards(facts: Facts, single: str, severity: Severity, named: set[str]) -> Iterator[Finding]:
    index = f"{single}.index.json"
    missing = sorted(named - facts.sizes.keys())
    if missing:
        yield facts.find(
            severity,
            "missing-shard",
            f"{index} names {some(missing)}, which {'is' if len(missing) == 1 else 'are'} not "
            "there: the weights are incomplete.",
            missing=missing,
        )
    stem, _, suffix = single.rpartition(".")
    there = {
        name
        for name in facts.sizes
        if name.startswith(f"{stem}-") and name.endswith(f".{suffix}") and "/" not in name
    }
    surplus = sorted(there - named)
    if surplus:
        yield facts.find(
            "warning",
            "unnamed-shard",
            f"{some(surplus)} {'is' if len(surplus) == 1 else 'are'} there, but {index} does not "
            "name it, so that nobody reads it: the leftover of another upload, or a broken index.",
            surplus=surplus,
        )


def _promised(facts: Facts, index: str, weight_map: dict[str, str]) -> Iterator[Finding]:
    """Are the tensors where the index says? Only of shards whose header could be read."""
    held = {name: entries for name, entries in facts.weights.items() if isinstance(entries, dict)}
    lacking = [t for t, name in weight_map.items() if name in held and t not in held[name]]
    if lacking:
        yield facts.find(
            "error",
            "index-mismatch",
            f"{index} promises {some(lacking)}, which the shards it names do not hold: the weights "
            "cannot be loaded whole.",
            lacking=lacking,
        )
    unnamed = [
        t for name, entries in held.items() for t in entries if weight_map.get(t) is None
    ]  # fmt: skip
    if unnamed:
        yield facts.find(
            "error",
            "index-mismatch",
            f"The shards hold {some(unnamed)}, which {index} does not name: readers that go by the "
            "index leave it out.",
            unnamed=unnamed,
        )
