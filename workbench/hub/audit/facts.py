"""What an audit knows of each phase, and what it says of it: facts in, findings out."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from workbench.hub.cache import CONFIG, FORMS
from workbench.hub.headers import TensorEntry
from workbench.hub.listing import Listing
from workbench.suites import Phase
from workbench.text import printable

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""Error: the phase's numbers would be wrong, or there can be none. Warning: look before you use
it. Note: as it should be, or harmless, and good to know."""


BOOKKEEPING = (
    "num_steps_trained_before_this_epoch", "num_epochs_trained_before_this_epoch",
    "transformers_version", "_name_or_path", "_commit_hash",
)  # fmt: skip
"""Fields of a config.json that say where a checkpoint comes from and change nothing in it."""


@dataclass(frozen=True)
class Finding:
    """One thing that was found at one phase."""

    phase: int
    severity: Severity
    check: str
    """A stable id, such as identical-weights."""
    repo_id: str
    commit_sha: str
    """Empty where the Hub named none."""
    message: str
    """One sentence: what was found and what it means."""
    evidence: dict[str, Any]


@dataclass(frozen=True)
class Fault:
    """Why something that the Hub ought to give could not be had."""

    check: str
    message: str


UNREACHABLE = "unreachable"
"""The check id of a phase that could not be asked: nothing is known of it, good or bad."""
GATED = "gated"


@dataclass(frozen=True)
class Copies:
    """A tied embedding that is stored twice, compared by its bytes."""

    equal: bool
    compared: int
    """Bytes of each copy that were read."""
    bytes: int
    """Of each copy."""
    samples: int
    """Blocks that were compared; 0 when the whole was."""


@dataclass
class Facts:
    """Filled while the Hub is asked, then only read. Contents are of the commit listed."""

    phase: Phase
    listing: Listing | None = None
    """None for a phase without a repository, or that could not be listed."""
    fault: Fault | None = None
    """What kept the phase, or its contents, from being read."""
    texts: dict[str, dict[str, Any] | Fault] = field(default_factory=dict)
    """JSON objects by file name: config and indexes."""
    headers: dict[str, dict[str, TensorEntry] | Fault] = field(default_factory=dict)
    """Tensors by the safetensors file that holds them."""
    latest_universal: str | Fault | None = None
    """The folder that the optimizer's pointer file names."""
    copies: Copies | None = None
    """Where the config ties the embeddings and two of one shape and dtype are stored."""
    moved: int = 0
    """Bytes of content that were read."""

    @property
    def commit_sha(self) -> str:
        return self.listing.commit_sha if self.listing else ""

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of every file of the repository."""
        return {file.name: file.size for file in self.listing.files} if self.listing else {}

    @property
    def etags(self) -> dict[str, str]:
        """Content address of every file of the repository."""
        return {file.name: file.etag for file in self.listing.files} if self.listing else {}

    @property
    def config(self) -> dict[str, Any] | None:
        found = self.texts.get(CONFIG)
        return found if isinstance(found, dict) else None

    def shards(self, single: str) -> set[str] | None:
        """The files that the index beside ``single`` names; None without an index that does."""
        index = self.texts.get(f"{single}.index.json")
        weight_map = index.get("weight_map") if isinstance(index, dict) else None
        return set(map(str, weight_map.values())) if isinstance(weight_map, dict) else None

    @property
    def weights(self) -> dict[str, dict[str, TensorEntry] | Fault]:
        """``headers`` of the files that a reader takes: with an index those that it names."""
        named = self.shards(FORMS[0])
        return {n: held for n, held in self.headers.items() if named is None or n in named}

    @property
    def tensors(self) -> dict[str, TensorEntry]:
        """Of all weight files whose header could be read."""
        sound = [held for held in self.weights.values() if isinstance(held, dict)]
        return {name: entry for held in sound for name, entry in held.items()}

    @property
    def headers_complete(self) -> bool:
        """Whether the phase has safetensors, none is missing and each header was read."""
        weights, named = self.weights, self.shards(FORMS[0])
        read = bool(weights) and all(isinstance(held, dict) for held in weights.values())
        return read and (named is None or named <= weights.keys())

    def find(self, severity: Severity, check: str, message: str, **evidence: Any) -> Finding:
        """A finding at this phase."""
        repo_id = self.phase.repo_id or ""
        return Finding(
            self.phase.phase, severity, check, repo_id, self.commit_sha, message, evidence
        )

    def faults(self, held: dict[str, Any]) -> Iterator[tuple[str, Fault]]:
        """(file, fault) of those that could not be read, but for the one that explains them all."""
        for name, found in held.items():
            if isinstance(found, Fault) and found.check not in (GATED, UNREACHABLE):
                yield name, found


def some(names: Iterable[str], shown: int = 3) -> str:
    """The first few of the names, and how many more there are."""
    every = list(map(printable, names))
    more = len(every) - shown
    return ", ".join(every[:shown]) + (f" and {more} more" if more > 0 else "")
