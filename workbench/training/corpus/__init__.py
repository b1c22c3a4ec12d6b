"""The demo's text: four domains, and the mix that a phase draws from them."""

import csv
import json
import lzma
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

DOMAINS = ("web", "chinese", "code", "maths")
DOMAIN_OF_CATEGORY = {
    "english-web": "web",
    "english-general": "web",
    "chinese": "chinese",
    "code": "code",
    "math": "maths",
}
SPECIAL_TOKENS = ("<unk>", "<s>", "</s>")
BOS_ID, EOS_ID = 1, 2


def load_documents(domain: str) -> list[str]:
    """The training documents of one domain (origins and licences: SOURCES.md)."""
    packed = (Path(__file__).parent / f"{domain}.jsonl.xz").read_bytes()
    return [json.loads(line) for line in lzma.decompress(packed).decode().splitlines()]


def train_tokenizer(documents: list[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE; whoever encodes a text adds the start token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        documents,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return tokenizer


def published_shares(data_mix: Path) -> dict[int, dict[str, float]]:
    """Share of each domain in each phase, from the published tokens per source.

    Phase 26 was run twice; the shares are those of the run that leads to phase 27.
    """
    tokens: dict[int, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    with data_mix.open(encoding="utf-8", newline="") as rows:
        for row in csv.DictReader(rows):
            if row["run"] != "26-4k":
                domain = DOMAIN_OF_CATEGORY[row["category"]]
                tokens[int(row["phase"])][domain] += float(row["tokens_b"])
    return {
        phase: {domain: mix[domain] / sum(mix.values()) for domain in DOMAINS}
        for phase, mix in sorted(tokens.items())
    }


def allocate(total: int, shares: Mapping[str, float]) -> dict[str, int]:
    """Whole numbers that add up to ``total``, by largest remainder."""
    exact = {name: total * share for name, share in shares.items()}
    counts = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: counts[name] - exact[name])
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    return counts


class TokenStream:
    """An endless stream of one domain's tokens; every epoch shuffles the documents anew."""

    def __init__(self, documents: list[np.ndarray], seed: int) -> None:
        self._documents = documents
        self._rng = np.random.default_rng(seed)
        self._buffer = np.empty(0, dtype=np.int64)

    def take(self, count: int) -> np.ndarray:
        """The next ``count`` token ids."""
        while len(self._buffer) < count:
            order = self._rng.permutation(len(self._documents))
            epoch = [self._documents[i] for i in order]
            self._buffer = np.concatenate([self._buffer, *epoch])
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken


class Mix:
    """Token batches of the phases: each sequence is of one domain, shares are met exactly."""

    def __init__(
        self,
        documents: Mapping[str, list[str]],
        tokenizer: Tokenizer,
        shares: Mapping[int, Mapping[str, float]],
        seed: int,
    ) -> None:
        """``documents`` are the texts of each domain, ``shares`` those of the domains by phase."""
        self._shares = shares
        self._seed = seed
        self._streams = {}
        for number, (domain, texts) in enumerate(documents.items()):
            encoded = tokenizer.encode_batch(texts)
            tokens = [np.array([BOS_ID, *e.ids, EOS_ID], dtype=np.int64) for e in encoded]
            self._streams[domain] = TokenStream(tokens, seed * len(documents) + number)

    def phase(self, phase: int, steps: int, sequences: int, length: int) -> list[np.ndarray]:
        """The batches of a phase, in order: ``steps`` arrays of (sequences, length) token ids."""
        counts = allocate(steps * sequences, self._shares[phase])
        drawn = [
            self._streams[domain].take(length)
            for domain, count in counts.items()
            for _ in range(count)
        ]
        order = np.random.default_rng([self._seed, phase]).permutation(len(drawn))
        return list(np.stack([drawn[i] for i in order]).reshape(steps, sequences, length))
