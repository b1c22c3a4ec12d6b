"""The probe text: what is shipped, users' own, and its windows, every token scored once."""

import json
import lzma

import pytest
import torch

from probes.sites import packed
from probes.text import (
    TextSettings,
    cut,
    first_documents,
    long_text,
    probe_text,
    token_hash,
)
from workbench.errors import UsageError
from workbench.training.corpus import DOMAINS, load_documents

TEXTS = {"a": ("in the theme", "für 汉字"), "b": ("x" * 40,)}


def test_every_token_is_scored_once_and_in_order(llama):
    tokenizer = llama.load_tokenizer()
    for domain, windows in cut(TEXTS, tokenizer, llama.config, 8).items():
        spelled = []
        for ids_T, length in zip(windows.ids, windows.lengths, strict=True):
            assert ids_T[0] == tokenizer.bos_token_id
            spelled += ids_T[1:length].tolist()
        assert tokenizer.decode(spelled) == "".join(TEXTS[domain])
        assert windows.scored == len(spelled)
        assert windows.bytes == len("".join(TEXTS[domain]).encode())
        labels = [labels_BT[labels_BT != -100] for _, labels_BT in windows.batches(2)]
        assert sorted(torch.cat(labels).tolist()) == sorted(spelled)


def test_shipped_text_has_four_domains_and_full_windows_of_each(llama):
    domains = cut(probe_text(), llama.load_tokenizer(), llama.config, 64)
    assert list(domains) == ["chinese", "code", "maths", "web"]
    assert packed(domains, 3).shape == (12, 64)


PASSAGE = 200
"""Characters. Shorter ones are shared: names, headings, phrases of a manual."""


def test_nothing_of_the_shipped_text_is_in_the_demo_training_text():
    trained = [text for domain in DOMAINS for text in load_documents(domain)]
    step = PASSAGE // 2  # such a passage of a trained text holds a whole piece of these
    pieces = {
        text[at : at + step] for text in trained for at in range(0, len(text) - step + 1, step)
    }
    assert len(pieces) > 10_000
    for domain, documents in {**probe_text(), "long": long_text()}.items():
        assert not set(documents) & set(trained)
        found = {text[at : at + step] for text in documents for at in range(len(text))} & pieces
        assert not found, f"{domain}: {found}"


def test_shipped_text_is_large_enough_for_real_vocabularies():
    """At 128,000 tokens in the vocabulary, 4.8 bytes a token is the most that any domain has."""
    for domain, documents in probe_text().items():
        sizes = [len(text.encode()) for text in documents]
        assert sum(sizes) > 4.8 * 16_384, domain
        assert sum(size > 3.4 * 4_096 for size in sizes) >= 3, domain
    assert len(long_text()) == 4
    assert all(len(text.encode()) > 4.0 * 28_672 for text in long_text())


def test_first_documents_are_whole_and_reach_the_size():
    documents = ("four", "für", "end")
    assert first_documents(documents, None) == documents
    assert first_documents(documents, 4) == documents[:1]
    assert first_documents(documents, 5) == documents[:2]
    assert first_documents(documents, 99) == documents


def test_own_text_is_a_folder_of_domains(tmp_path):
    (tmp_path / "news.jsonl").write_text('{"text": "one", "id": 7}\n\n"two\\nlines"\n')
    (tmp_path / "poems.txt").write_text("für\n汉字\n", encoding="utf-8")
    (tmp_path / "long.jsonl.xz").write_bytes(lzma.compress(json.dumps("very long").encode()))
    (tmp_path / "README.md").write_text("no text")
    text = str(tmp_path)
    assert probe_text(text) == {"news": ("one", "two\nlines"), "poems": ("für\n汉字\n",)}
    assert long_text(text) == ("very long",)
    assert probe_text(str(tmp_path / "poems.txt")) == {"poems": ("für\n汉字\n",)}
    assert long_text(str(tmp_path / "poems.txt")) == ()


def test_settings_hold_the_hash_of_the_text(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("one")
    before = TextSettings(text=str(tmp_path)).model_dump()
    assert before == TextSettings(text=str(tmp_path)).model_dump()
    file.write_text("two")
    assert TextSettings(text=str(tmp_path)).model_dump() != before
    (tmp_path / "a.txt").rename(tmp_path / "b.txt")
    hashes = {before["text_sha256"], TextSettings(text=str(tmp_path)).text_sha256}
    file.write_text("two")
    hashes.add(TextSettings(text=str(file)).text_sha256)
    assert len(hashes) == 3
    assert TextSettings().model_dump() == {"text": None, "text_sha256": None}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'"fine"\n{"text": 3}\n', r"a\.jsonl, line 2: neither a JSON string nor"),
        ("a.jsonl", b'"fine"\n\n"open\n', r"line 3: not JSON \(.* at column 1\)"),
        ("a.jsonl", b'"fine"\n"\xff"\n', r"line 2: not UTF-8"),
        ("a.jsonl", b"\n\n", r"a\.jsonl is empty: it needs at least one document"),
        ("a.txt", b"fine\n\xff\n", r"a\.txt, line 2: not UTF-8"),
        ("a.txt", b" \n", r"a\.txt is empty"),
        ("a.txt.xz", b"not compressed", r"a\.txt\.xz cannot be decompressed"),
        ("a.csv", b"text", r"holds no domain: a domain is a file that ends in \.jsonl, \.txt"),
        ("long.txt", b"text", r"holds no domain"),
    ],
)
def test_what_is_no_text_is_refused_with_its_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=message):
        probe_text(str(tmp_path))


def test_a_text_that_is_not_there_or_has_a_domain_twice_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"/nowhere does not exist"):
        probe_text("/nowhere")
    for name in ("a.txt", "a.jsonl"):
        (tmp_path / name).write_text('"one"')
    with pytest.raises(UsageError, match=r"two files for the domain 'a', a.jsonl and a.txt"):
        probe_text(str(tmp_path))


def test_hash_sees_ids_windows_and_no_padding():
    ids = torch.tensor([[1, 2, 3], [1, 4, 1]])
    lengths = torch.tensor([3, 2])
    padded_otherwise = torch.tensor([[1, 2, 3, 9], [1, 4, 9, 9]])
    assert token_hash(ids, lengths) == token_hash(padded_otherwise, lengths)
    assert token_hash(ids, lengths) != token_hash(ids)
    assert token_hash(ids) != token_hash(ids.flip(0))


def test_window_longer_than_the_context_is_refused(llama):
    with pytest.raises(UsageError, match=r"1000 tokens is longer than .* context of 512"):
        cut(TEXTS, llama.load_tokenizer(), llama.config, 1000)


def test_a_tokenizer_without_start_token_is_refused(llama):
    tokenizer = llama.load_tokenizer()
    tokenizer.bos_token = None
    assert cut(TEXTS, tokenizer, llama.config, 8)["a"].ids[0, 0] == 1  # from the config
    with pytest.raises(UsageError, match="no start token"):
        cut(TEXTS, tokenizer, {}, 8)
