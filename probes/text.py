"""The fixed probe text as token windows: the same tokens for every checkpoint of a suite.

Each document is cut into windows of ``length`` tokens: one start token that is only given, then
tokens of the document that are scored. So every token of every document is scored exactly once,
and the scored text is the whole text of the domain, to the byte.

A text is a folder with a file for each domain, named after it: ``.jsonl`` (a document a line, a
JSON string or an object with a string ``text``) or ``.txt`` (one document), each also compressed as
``.xz``. A file ``long`` is no domain, it holds the documents for long contexts. The shipped text is
such a folder, and users can name their own.

Legend: N windows, T tokens, B windows of one batch.
"""

import hashlib
import json
import lzma
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import torch
from pydantic import computed_field

from probes.base import ProbeSettings
from workbench.errors import CheckpointError, UsageError

PROBE_TEXT = files("probes").joinpath("probe_text")
LONG = "long"
ENDINGS = (".jsonl", ".txt", ".jsonl.xz", ".txt.xz")


class TextSettings(ProbeSettings):
    """Base of the settings of probes that read text."""

    text: str | None = None
    """Folder of .jsonl or .txt files (or one file), a domain each, in place of the shipped text."""

    # Part of the settings, and so of a job's fingerprint: other contents are another measurement.
    @computed_field  # type: ignore[prop-decorator]
    @cached_property
    def text_sha256(self) -> str | None:
        """sha256 over names and contents of the text's files; None for the shipped text."""
        return None if self.text is None else text_digest(self.text)

    def documents(self) -> dict[str, tuple[str, ...]]:
        """Documents by domain. UsageError if the text is not the one that was planned with."""
        self._check()
        return probe_text(self.text)

    def long_documents(self) -> tuple[str, ...]:
        """Documents for long contexts, as :meth:`documents`."""
        self._check()
        return long_text(self.text)

    def _check(self) -> None:
        if self.text is not None and text_digest(self.text) != self.text_sha256:
            raise UsageError(
                f"The text {self.text} was changed while checkpoints were measured with it: run "
                "the command again, so that all of them are measured with the same text."
            )


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

    def batches(self, size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """(ids_BT, labels_BT) with label -100 where nothing is scored, long windows first."""
        for chosen in self.lengths.argsort(descending=True, stable=True).split(size):
            lengths = self.lengths[chosen]
            ids_BT = self.ids[chosen, : int(lengths.max())]
            labels_BT = ids_BT.clone()
            labels_BT[torch.arange(ids_BT.shape[1]) >= lengths[:, None]] = -100
            labels_BT[:, 0] = -100
            yield ids_BT, labels_BT


def probe_text(text: str | None = None) -> dict[str, tuple[str, ...]]:
    """Documents by domain, domains sorted: the shipped ones, or those of a user's text."""
    return {name: found for name, found in _documents(text).items() if name != LONG}


def long_text(text: str | None = None) -> tuple[str, ...]:
    """Documents for long contexts; none if a user's text has no such file."""
    return _documents(text).get(LONG, ())


def text_digest(text: str) -> str:
    """sha256 over names and contents of the files of a user's text."""
    digest = hashlib.sha256()
    for file in _files(text):
        content = _bytes(file)
        digest.update(f"{file.name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def first_documents(documents: Sequence[str], size: int | None) -> tuple[str, ...]:
    """As many documents from the beginning as come to ``size`` UTF-8 bytes; None: all."""
    if size is None:
        return tuple(documents)
    chosen: list[str] = []
    read = 0
    for document in documents:
        if read >= size:
            break
        chosen.append(document)
        read += len(document.encode())
    return tuple(chosen)


def _documents(text: str | None) -> dict[str, tuple[str, ...]]:
    return _shipped() if text is None else _read(_files(text))


@cache
def _shipped() -> dict[str, tuple[str, ...]]:
    return _read([file for file in PROBE_TEXT.iterdir() if file.name.endswith(ENDINGS)])


def _files(text: str) -> list[Traversable]:
    """The files of a user's text. UsageError if there is none, or two of one domain."""
    place = Path(text).expanduser()
    if not place.exists():
        raise UsageError(
            f"The text {text} does not exist: name a .jsonl or .txt file, or a folder."
        )
    found: list[Path] = [place] if place.is_file() else sorted(place.iterdir())
    found = [file for file in found if file.name.endswith(ENDINGS)]
    if all(_domain(file) == LONG for file in found):
        raise UsageError(
            f"The text {text} holds no domain: a domain is a file that ends in "
            f"{', '.join(ENDINGS)}."
        )
    by_domain: dict[str, Path] = {}
    for file in found:
        other = by_domain.setdefault(_domain(file), file)
        if other != file:
            raise UsageError(
                f"The text {text} has two files for the domain {_domain(file)!r}, {other.name} and "
                f"{file.name}: remove or rename one."
            )
    return list(found)


def _domain(file: Traversable) -> str:
    name = file.name.removesuffix(".xz")
    return name.removesuffix(".jsonl").removesuffix(".txt")


def _read(found: Sequence[Traversable]) -> dict[str, tuple[str, ...]]:
    return {_domain(file): _read_file(file) for file in sorted(found, key=_domain)}


def _bytes(file: Traversable) -> bytes:
    content = file.read_bytes()
    if not file.name.endswith(".xz"):
        return content
    try:
        return lzma.decompress(content)
    except lzma.LZMAError as error:
        raise UsageError(f"{file} cannot be decompressed: {error}.") from error


def _read_file(file: Traversable) -> tuple[str, ...]:
    """The documents of one file. UsageError with the line for what is no document."""
    is_plain = file.name.removesuffix(".xz").endswith(".txt")
    found = []
    for number, line in enumerate(_bytes(file).split(b"\n"), start=1):
        try:
            decoded = line.decode()
            if is_plain or decoded.strip():
                found.append(decoded if is_plain else _document(decoded))
        except ValueError as error:
            reason = "not UTF-8" if isinstance(error, UnicodeDecodeError) else error
            raise UsageError(f"{file}, line {number}: {reason}.") from error
    documents = ["\n".join(found)] if is_plain else found
    if not "".join(documents).strip():
        raise UsageError(f"{file} is empty: it needs at least one document.")
    return tuple(documents)


def _document(line: str) -> str:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg} at column {error.colno})") from error
    document = row.get("text") if isinstance(row, dict) else row
    if not isinstance(document, str) or not document:
        raise ValueError("neither a JSON string nor an object with a string `text`")
    return document


USUAL_WINDOW = 2048


def usual_window(config: Mapping[str, Any]) -> int:
    """Tokens per window where the settings name no number: the context, at most 2,048."""
    return min(context_of(config) or USUAL_WINDOW, USUAL_WINDOW)


def context_of(config: Mapping[str, Any]) -> int | None:
    """The longest window that the checkpoint was made for; None if its config does not say."""
    context = config.get("max_position_embeddings")
    return None if context is None else int(context)


def cut(
    documents: Mapping[str, tuple[str, ...]], tokenizer: Any, config: Mapping[str, Any], length: int
) -> dict[str, Windows]:
    """Windows of every domain for a checkpoint. UsageError if its context is too short."""
    context = context_of(config)
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
    domains = {domain: _cut(texts, tokenizer, start, length) for domain, texts in documents.items()}
    if "vocab_size" in config:
        for windows in domains.values():
            check_ids([int(windows.ids.max())], config["vocab_size"], tokenizer)
    return domains


def check_ids(ids: Iterable[int], vocabulary: int, tokenizer: Any) -> None:
    """Raise CheckpointError for a token id that the model has no embedding of.

    A vocabulary that is larger than the tokenizer's is padded, which is normal.
    """
    largest = max(ids, default=0)
    if largest >= vocabulary:
        raise CheckpointError(
            f"The tokenizer turns text into the token id {largest:,} (it has {len(tokenizer):,} "
            f"tokens), and the model's vocabulary ends at {vocabulary - 1:,}: the two do not "
            "belong together; put the model's own tokenizer beside its weights."
        )


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


def token_hash(ids_NT: torch.Tensor, lengths_N: torch.Tensor | None = None) -> str:
    """sha256 of token ids (64-bit little endian), window after window, without the padding."""
    lengths = [ids_NT.shape[1]] * len(ids_NT) if lengths_N is None else lengths_N.tolist()
    digest = hashlib.sha256()
    for ids_T, length in zip(ids_NT, lengths, strict=True):
        digest.update(length.to_bytes(8, "little"))
        digest.update(ids_T[:length].numpy().astype("<i8").tobytes())
    return digest.hexdigest()
