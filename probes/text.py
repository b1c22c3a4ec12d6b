"""The fixed probe text as token windows: the same tokens for every checkpoint of a suite.

Each document is cut into windows of ``length`` tokens: one start token that is only given, then
tokens of the document that are scored. So every token of every document is scored exactly once,
and the scored text is the whole text of the domain, to the byte.

Legend: N windows, T tokens, B windows of one batch.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import torch

from workbench.errors import UsageError


@dataclass(frozen=True)
class Windows:
    """The windows of one domain, padded on the right to one length."""

    ids: torch.Tensor
    """ids_NT"""
    lengths: torch.Tensor
    """lengths_N: tokens per window, the start token included."""
    bytes: int
    """UTF-8 bytes of the text that the scored tokens spell."""

    @property
    def scored(self) -> int:
        """Scored tokens: all but the start token of each window."""
        return int(self.lengths.sum()) - len(self.lengths)

    def full(self, count: int) -> torch.Tensor:
        """The first ``count`` windows without padding (ids_NT); fewer if the text has fewer."""
        return self.ids[self.lengths == self.ids.shape[1]][:count]

    def batches(self, size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """(ids_BT, labels_BT) with label -100 where nothing is scored, long windows first."""
        for chosen in self.lengths.argsort(descending=True, stable=True).split(size):
            lengths = self.lengths[chosen]
            ids_BT = self.ids[chosen, : int(lengths.max())]
            labels_BT = ids_BT.clone()
            labels_BT[torch.arange(ids_BT.shape[1]) >= lengths[:, None]] = -100
            labels_BT[:, 0] = -100
            yield ids_BT, labels_BT


PROBE_TEXT = files("probes").joinpath("probe_text")


@cache
def probe_text() -> dict[str, tuple[str, ...]]:
    """The shipped documents by domain, domains sorted."""
    shipped = sorted(
        (f for f in PROBE_TEXT.iterdir() if f.name.endswith(".jsonl")),
        key=lambda file: file.name,
    )
    return {
        file.name.removesuffix(".jsonl"): tuple(
            json.loads(line)["text"] for line in file.read_text(encoding="utf-8").splitlines()
        )
        for file in shipped
    }


def cut(
    documents: Mapping[str, tuple[str, ...]], tokenizer: Any, config: Mapping[str, Any], length: int
) -> dict[str, Windows]:
    """Windows of every domain for a checkpoint. UsageError if its context is too short."""
    context = config.get("max_position_embeddings")
    if context is not None and length > context:
        raise UsageError(
            f"A window of {length} tokens is longer than the checkpoint's context of {context}; "
            f"set window to {context} or less."
        )
    start = tokenizer.bos_token_id
    if start is None:
        start = config.get("bos_token_id")
    if start is None:
        raise UsageError(
            "The checkpoint's tokenizer has no start token (bos_token), which every window of the "
            "probe text begins with; set bos_token_id in the suite's overrides."
        )
    return {domain: _cut(texts, tokenizer, start, length) for domain, texts in documents.items()}


def _cut(texts: tuple[str, ...], tokenizer: Any, start: int, length: int) -> Windows:
    windows: list[list[int]] = []
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        windows += [[start, *ids[i : i + length - 1]] for i in range(0, len(ids), length - 1)]
    padded = [window + [start] * (length - len(window)) for window in windows]
    return Windows(
        ids=torch.tensor(padded),
        lengths=torch.tensor([len(window) for window in windows]),
        bytes=sum(len(text.encode()) for text in texts),
    )


def full_windows(windows: Mapping[str, Windows], per_domain: int) -> torch.Tensor:
    """Unpadded windows of all domains in turn (ids_NT), ``per_domain`` of each."""
    return torch.cat([domain.full(per_domain) for domain in windows.values()])


def token_hash(ids_NT: torch.Tensor, lengths_N: torch.Tensor | None = None) -> str:
    """sha256 of token ids (64-bit little endian), window after window, without the padding."""
    lengths = [ids_NT.shape[1]] * len(ids_NT) if lengths_N is None else lengths_N.tolist()
    digest = hashlib.sha256()
    for ids_T, length in zip(ids_NT, lengths, strict=True):
        digest.update(length.to_bytes(8, "little"))
        digest.update(ids_T[:length].numpy().astype("<i8").tobytes())
    return digest.hexdigest()
