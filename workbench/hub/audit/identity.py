"""Do different phases serve the same weights?"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from workbench.hub.audit.facts import Facts, Finding, Severity
from workbench.hub.audit.files import weights_form
from workbench.hub.cache import FORMS
from workbench.text import spans

_SHA256 = re.compile(r"[0-9a-f]{64}")
_FILES = {
    FORMS[0]: re.compile(r"model(-\d+-of-\d+)?\.safetensors"),
    FORMS[1]: re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin"),
}
_NAMES = {FORMS[0]: "safetensors", FORMS[1]: "pickled weights"}


def identical_weights(every: Sequence[Facts]) -> Iterator[Finding]:
    """Weights that are byte for byte the same in more than one phase, by what the Hub hashes.

    A probe reads safetensors where there are some. Where pickled weights lie beside them and
    differ while the safetensors do not, the safetensors serve the weights of another phase.
    """
    held = {form: {f.phase.phase: _weights(f, form) for f in every} for form in FORMS}
    last = every[-1].phase.phase if every else 0
    by_phase = {f.phase.phase: f for f in every}
    for form in FORMS:
        wholes: dict[frozenset[str], list[int]] = defaultdict(list)
        for phase, files in held[form].items():
            if files:
                wholes[frozenset(files.values())].append(phase)
        for same in wholes.values():
            for phase in same if len(same) > 1 else ():
                yield _whole(by_phase[phase], form, same, last, held)
        yield from _single_files(by_phase, form, held[form])


def _weights(facts: Facts, form: str) -> dict[str, str]:
    """sha256 by file name."""
    return {
        name: etag
        for name, etag in facts.etags.items()
        if _FILES[form].fullmatch(name) and _SHA256.fullmatch(etag)
    }


def _whole(
    facts: Facts, form: str, same: list[int], last: int, held: dict[str, dict[int, dict[str, str]]]
) -> Finding:
    phases = f"Phases {spans(same)}" + (", the last one among them," if last in same else "")
    files = held[form][facts.phase.phase]
    evidence = {"form": form, "phases": same, "sha256": files}
    read = weights_form(facts) == form
    pickled = {frozenset(held[FORMS[1]][phase].values()) for phase in same} - {frozenset()}
    if form == FORMS[0] and len(pickled) > 1:
        return facts.find(
            "error",
            "stale-safetensors",
            f"{phases} have the same safetensors byte for byte but different pickled weights: at "
            "most one phase has its own safetensors, and the others would be measured as it.",
            **evidence,
            pickled={phase: held[FORMS[1]][phase] for phase in same},
        )
    severity: Severity = "error" if read else "warning"
    meaning = (
        "at most one can be what it says, and a probe would measure it again and again"
        if read
        else "they are not what a probe reads, which takes the safetensors beside them"
    )
    return facts.find(
        severity,
        "identical-weights",
        f"{phases} have the same {_NAMES[form]} byte for byte: {meaning}.",
        **evidence,
    )


def _single_files(
    by_phase: dict[int, Facts], form: str, held: dict[int, dict[str, str]]
) -> Iterator[Finding]:
    """Single shards that phases share whose other shards differ."""
    holders: dict[str, set[int]] = defaultdict(set)
    for phase, files in held.items():
        for sha256 in files.values():
            holders[sha256].add(phase)
    for phase, files in held.items():
        others = _sharing(phase, files, holders, held)
        if others:
            shared = sorted(n for n, sha in files.items() if holders[sha] & others)
            yield by_phase[phase].find(
                "error" if weights_form(by_phase[phase]) == form else "warning",
                "identical-weights",
                f"Phases {spans({phase, *others})} have {', '.join(shared)} in common byte for "
                "byte, though their other shards differ: shards of two checkpoints were mixed.",
                form=form,
                phases=sorted({phase, *others}),
                sha256={name: files[name] for name in shared},
            )


def _sharing(
    phase: int,
    files: dict[str, str],
    holders: dict[str, set[int]],
    held: dict[int, dict[str, str]],
) -> set[int]:
    """Phases that share some but not all of the files."""
    mine = set(files.values())
    some_shared: Iterable[int] = {other for sha in mine for other in holders[sha]} - {phase}
    return {other for other in some_shared if set(held[other].values()) != mine}
