"""The loss: against plain cross entropy, by position, in long contexts, in any batch."""

import math
import re
from collections import defaultdict

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy

from probes import loss
from probes.base import Measuring
from probes.loss import LossProbe, bucket_name, bucket_of
from probes.text import first_documents, long_text, probe_text
from tests.fixtures.tiny_checkpoint import write_llama, write_yulan
from workbench.checkpoints import Checkpoint
from workbench.errors import UsageError

BYTES = 16_000
LONG_CONTEXT = 6000
DOMAINS = ["chinese", "code", "maths", "web"]


def measured(checkpoint, **settings):
    given = {"bytes_per_domain": BYTES, **settings}
    return LossProbe().measure(checkpoint, LossProbe.Settings(**given), Measuring())


def table(found):
    return {(r["metric"], r["domain"], r["module"]): r["value"] for r in found.rows}


@pytest.fixture(scope="module")
def long_checkpoint(tmp_path_factory):
    """A checkpoint with a context of more than 4,096 tokens, and texts of one and two windows."""
    folder = tmp_path_factory.mktemp("long")
    texts = folder / "texts"
    texts.mkdir()
    (texts / "web.txt").write_text(probe_text()["web"][0], encoding="utf-8")
    (texts / "long.txt").write_text(long_text()[3][:20_000], encoding="utf-8")
    checkpoint = write_yulan(
        folder / "checkpoint", max_position_embeddings=LONG_CONTEXT, num_hidden_layers=1
    )
    return Checkpoint.open(checkpoint), str(texts)


@pytest.mark.parametrize("form", ["yulan", "llama"])
def test_loss_equals_direct_cross_entropy_document_by_document(form, request):
    checkpoint = request.getfixturevalue(form)
    found = table(measured(checkpoint, window=100, batch_size=7))
    model, tokenizer = checkpoint.load_model(), checkpoint.load_tokenizer()
    texts = first_documents(probe_text()["code"], BYTES)
    nats = defaultdict(list)
    with torch.no_grad():
        for text in texts:
            ids = tokenizer.encode(text, add_special_tokens=False)
            for i in range(0, len(ids), 99):
                window = torch.tensor([[1, *ids[i : i + 99]]])
                logits = model(window).logits[0, :-1].double()
                of_window = cross_entropy(logits, window[0, 1:], reduction="none").tolist()
                for position, nll in enumerate(of_window, start=1):
                    names = ["position 1-15", "position 16-31", "position 32-63", "position 64-127"]
                    name = names[(position > 15) + (position > 31) + (position > 63)]
                    nats[name].append(nll)
                    nats[None].append(nll)
    assert len(nats) == 5
    for module, of_module in nats.items():
        assert found["tokens", "code", module] == len(of_module)
        assert found["nll_sum", "code", module] == pytest.approx(sum(of_module), rel=1e-6)
        assert found["nll", "code", module] == pytest.approx(
            sum(of_module) / len(of_module), rel=1e-6
        )
    size = len("".join(texts).encode())
    assert found["bytes", "code", None] == size
    assert found["bits_per_byte", "code", None] == pytest.approx(
        sum(nats[None]) / math.log(2) / size, rel=1e-6
    )


@pytest.mark.parametrize("form", ["yulan", "llama"])
def test_values_do_not_depend_on_the_batch_size_nor_on_the_logits_at_a_time(
    form, request, monkeypatch
):
    checkpoint = request.getfixturevalue(form)
    first = measured(checkpoint, window=64, batch_size=1)
    monkeypatch.setattr(loss, "LOGITS_AT_A_TIME", 5 * 1000 + 1)  # five tokens of this vocabulary
    other = measured(checkpoint, window=64, batch_size=13)
    assert table(other) == pytest.approx(table(first), rel=1e-5)
    assert other.notes == first.notes


def test_positions_add_up_to_their_domain(llama):
    found = table(measured(llama))
    for domain in DOMAINS:
        for metric in ("nll_sum", "tokens"):
            parts = [v for (m, d, b), v in found.items() if (m, d) == (metric, domain) and b]
            assert len(parts) == 6  # 1-15 to 256-511: the tiny checkpoint's context is 512
            assert sum(parts) == pytest.approx(found[metric, domain, None], rel=1e-12)


def test_buckets_of_positions():
    edges = torch.tensor([1, 15, 16, 31, 32, 255, 256, 511, 512, 28_671, 32_768, 2**40])
    assert bucket_of(edges).tolist() == [0, 0, 1, 1, 2, 4, 5, 5, 6, 11, 12, 37]
    assert [bucket_name(b) for b in (0, 1, 5)] == [
        "position 1-15",
        "position 16-31",
        "position 256-511",
    ]


def test_a_long_context_reads_the_long_documents_in_whole_windows(long_checkpoint):
    checkpoint, text = long_checkpoint
    found = measured(checkpoint, text=text, bytes_per_domain=None)
    values = table(found)
    assert {domain for _, domain, _ in values} == {"web", "long"}
    assert values["bytes", "long", None] == 20_000
    model, tokenizer = checkpoint.load_model(), checkpoint.load_tokenizer()
    ids = tokenizer.encode(long_text()[3][:20_000], add_special_tokens=False)
    nats = []
    with torch.no_grad():
        for i in range(0, len(ids), LONG_CONTEXT - 1):
            window = torch.tensor([[1, *ids[i : i + LONG_CONTEXT - 1]]])
            logits = model(window).logits[0, :-1].double()
            nats.append(cross_entropy(logits, window[0, 1:], reduction="none"))
    assert len(nats) == 2
    assert values["nll_sum", "long", None] == pytest.approx(float(torch.cat(nats).sum()), rel=1e-6)
    assert values["tokens", "long", "position 4096-8191"] == LONG_CONTEXT - 4096
    last = nats[0][4095:]
    assert values["nll", "long", "position 4096-8191"] == pytest.approx(
        float(last.mean()), rel=1e-6
    )
    without = measured(checkpoint, text=text, bytes_per_domain=None, long_context=False)
    assert table(without) == {k: v for k, v in values.items() if k[1] == "web"}
    assert "long_token_set_sha256" in found.notes
    assert "long_token_set_sha256" not in without.notes


def test_logits_of_a_long_window_are_never_held_as_a_whole(long_checkpoint, monkeypatch):
    checkpoint, text = long_checkpoint
    largest = []
    real = loss.cross_entropy
    monkeypatch.setattr(loss, "LOGITS_AT_A_TIME", 100 * 1000)
    monkeypatch.setattr(
        loss,
        "cross_entropy",
        lambda logits, *args, **kwargs: (
            largest.append(logits.numel()) or real(logits, *args, **kwargs)
        ),
    )
    measured(checkpoint, text=text)
    assert max(largest) == 100 * 1000  # of up to 6,000,000


def test_the_usual_window_is_the_context_up_to_2048(llama, long_checkpoint):
    assert measured(llama).notes == measured(llama, window=512).notes
    checkpoint, text = long_checkpoint
    own = {"text": f"{text}/web.txt"}
    assert measured(checkpoint, **own).notes == measured(checkpoint, **own, window=2048).notes


def test_domains_and_positions_without_a_broken_token_keep_their_loss(tmp_path):
    """One token's embedding is NaN: it occurs in the last window of the second domain alone."""
    folder = write_llama(tmp_path / "checkpoint", tie_word_embeddings=False)
    text = tmp_path / "text"
    text.mkdir()
    texts = {
        "sound": "the cat sat on the mat " * 40,
        "broken": "the cat sat on the mat " * 40 + "Q the cat sat",
    }
    for domain, content in texts.items():
        (text / f"{domain}.txt").write_text(content)
    tokenizer = Checkpoint.open(folder).load_tokenizer()
    sound, broken = (set(tokenizer.encode(content)) for content in texts.values())
    settings = {"text": str(text), "window": 40, "batch_size": 1}
    before = table(measured(Checkpoint.open(folder), **settings))
    state = load_file(folder / "model.safetensors")
    state["model.embed_tokens.weight"][sorted(broken - sound)] = math.nan
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    found = measured(Checkpoint.open(folder), **settings)
    missing = {(r["metric"], r["domain"], r["module"]): r["reason"] for r in found.rows}
    missing = {key: reason for key, reason in missing.items() if reason}
    assert {domain for _, domain, _ in missing} == {"broken"}
    assert ("nll", "broken", None) in missing
    for key, value in table(found).items():
        if key not in missing:
            assert value == before[key]
    for (metric, _, _), reason in missing.items():
        assert metric in ("nll", "nll_sum", "bits_per_byte")
        lost, n = map(int, re.findall(r"\d+", reason.replace(",", "")))
        assert 0 < lost < n


def test_a_logit_of_minus_infinity_leaves_no_plausible_loss():
    logits = torch.zeros(4, 5)
    logits[0, 3], logits[1, 3], logits[2, 3] = -math.inf, math.inf, math.nan
    nats = loss._nll(logits, torch.zeros(4, dtype=torch.long))
    assert nats.isnan().tolist() == [True, True, True, False]
    assert nats[3] == pytest.approx(math.log(5))


def test_own_text_is_read_and_its_hash_noted(llama, tmp_path):
    file = tmp_path / "mine.txt"
    file.write_text("What I have to say is short.")
    found = measured(llama, text=str(file))
    assert table(found)["bytes", "mine", None] == 28
    settings = LossProbe.Settings(text=str(file))
    assert found.notes["text_sha256"] == settings.text_sha256
    file.write_text("What I have to say is shorter.")
    with pytest.raises(UsageError, match=r"mine\.txt was changed while"):
        LossProbe().measure(llama, settings, Measuring())


def test_out_of_memory_reads_fewer_windows_at_a_time(llama, monkeypatch):
    sizes = []
    real = loss.scored_nll

    def scored(model, ids_BT, labels_BT):
        sizes.append(len(ids_BT))
        if len(ids_BT) > 3:
            torch.empty(2**60, dtype=torch.uint8)
        return real(model, ids_BT, labels_BT)

    expected = measured(llama, window=64)
    monkeypatch.setattr(loss, "scored_nll", scored)
    found = measured(llama, window=64, batch_size=8)
    assert table(found) == pytest.approx(table(expected), rel=1e-5)
    assert sizes[:3] == [8, 4, 2]
