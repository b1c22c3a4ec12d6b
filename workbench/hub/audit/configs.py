"""Does the config say what the catalogue says, and what changes from phase to phase?"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from workbench.hub.audit.facts import BOOKKEEPING, Facts, Finding, Severity, some
from workbench.text import spans

_VOCABULARY = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt")
_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def config_values(facts: Facts, before: Facts | None) -> Iterator[Finding]:
    """The values of config.json that the catalogue knows; ``before`` is the phase before."""
    if facts.config is None:
        return
    phase = facts.phase
    # The step at which a phase began is where the one before ended, which may be an estimate.
    guessed = before is not None and before.phase.end_step_basis == "estimated"
    for field, wanted, soft in (
        ("model_type", phase.model_type or None, False),
        ("rope_theta", phase.rope_theta, False),
        ("max_position_embeddings", phase.context_length, False),
        ("num_steps_trained_before_this_epoch", phase.start_step, guessed),
        ("num_epochs_trained_before_this_epoch", phase.phase - 1, False),
    ):
        found = _value(facts.config, field)
        if wanted is None or found is None or found == wanted:
            continue
        corrected = field in phase.overrides
        severity: Severity = "note" if corrected else "warning" if soft else "error"
        meaning = (
            f"corrected by the catalogue to {_number(phase.overrides[field])} when it is loaded"
            if corrected
            else "which is an estimate"
            if soft
            else _MEANING[field]
        )
        yield facts.find(
            severity,
            "config-value",
            f"config.json says {field} {_number(found)} where the catalogue has "
            f"{_number(wanted)}: {meaning}.",
            field=field,
            config=found,
            catalogue=wanted,
        )


_MEANING = {
    "model_type": "the repository holds another kind of model than was thought",
    "rope_theta": "loaded like that, the model computes with other positions than it was trained "
    "with",
    "max_position_embeddings": "it was trained at another length",
    "num_steps_trained_before_this_epoch": "by its own account it is the checkpoint of another "
    "phase",
    "num_epochs_trained_before_this_epoch": "by its own account it is the checkpoint of another "
    "phase",
}


def _value(config: Mapping[str, Any], field: str) -> Any:
    """A field of the config; theta may stand where transformers 5 writes it."""
    if field != "rope_theta":
        return config.get(field)
    parameters = config.get("rope_parameters")
    inner = parameters.get("rope_theta") if isinstance(parameters, dict) else None
    return inner if inner is not None else config.get("rope_theta")


def config_changes(facts: Facts, before: Facts | None) -> Iterator[Finding]:
    """What differs from the config of the nearest phase before that has one."""
    if facts.config is None or before is None or before.config is None:
        return
    now, then = facts.config, before.config
    changed = {
        field: {"before": then.get(field), "now": now.get(field)}
        for field in sorted(now.keys() | then.keys())
        if field not in BOOKKEEPING and now.get(field) != then.get(field)
    }
    if changed:
        plain = {f: v for f, v in changed.items() if not _nested(v["before"], v["now"])}
        first = sorted(plain, key=lambda f: None in plain[f].values())  # what both phases have
        what = some(
            [f"{f} {_short(plain[f]['before'])} -> {_short(plain[f]['now'])}" for f in first]
            + [field for field in changed if field not in plain]
        )
        yield facts.find(
            "note",
            "config-change",
            f"config.json changes from phase {before.phase.phase} to this one: {what}.",
            before=before.phase.phase,
            changed=changed,
        )


def _nested(*values: Any) -> bool:
    return any(isinstance(value, dict | list) for value in values)


def _short(value: Any) -> str:
    text = "absent" if value is None else _number(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _number(value: Any) -> str:
    """As people write it: 490,000 rather than 490000.0."""
    counted = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{value:,.12g}" if counted else str(value)


def tokenizers(every: Sequence[Facts]) -> Iterator[Finding]:
    """Is the tokenizer the same in all phases? Compared with the one that most phases have."""
    for names, what, meaning in (
        (_VOCABULARY, "tokenizer", "losses over phases compare only on the same tokens"),
        (_SETTINGS, "settings of the tokenizer", "they may add other tokens at the start"),
    ):
        sets = {f.phase.phase: {n: f.etags[n] for n in names if n in f.etags} for f in every}
        sets = {phase: held for phase, held in sets.items() if held}
        if not sets:
            continue
        counts = Counter(tuple(sorted(held.items())) for held in sets.values())
        usual = dict(counts.most_common(1)[0][0])
        with_it = [phase for phase, held in sets.items() if held == usual]
        for facts in every:
            held = sets.get(facts.phase.phase)
            if held is None or held == usual:
                continue
            differs = sorted(n for n in {*held, *usual} if held.get(n) != usual.get(n))
            merged = facts.phase.form == "merged"
            severity: Severity = "note" if merged or names is _SETTINGS else "warning"
            yield facts.find(
                severity,
                "tokenizer-differs",
                f"The {what} ({some(differs)}) is not that of phases {spans(with_it)}: {meaning}.",
                files=differs,
                usual_in=with_it,
            )
