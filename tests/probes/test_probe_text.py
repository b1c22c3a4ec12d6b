"""The probe text as windows: every token scored once, the bytes exactly those of the text."""

import pytest
import torch

from probes.text import cut, full_windows, probe_text, token_hash
from workbench.errors import UsageError

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
    assert full_windows(domains, 3).shape == (12, 64)


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
