"""The mix of the demo's domains: whole numbers, exact shares, the same for the same seed."""

import numpy as np
import pytest

from tests.workbench.training.tiny_run import DOCUMENTS
from workbench.suites import CATALOGUE
from workbench.training.corpus import DOMAINS, Mix, TokenStream, allocate, published_shares


@pytest.mark.parametrize(
    ("total", "shares", "counts"),
    [
        (10, {"a": 0.5, "b": 0.3, "c": 0.2}, {"a": 5, "b": 3, "c": 2}),
        (3, {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}, {"a": 1, "b": 1, "c": 1}),
        (4, {"a": 0.6, "b": 0.4}, {"a": 2, "b": 2}),
        (1, {"a": 0.3, "b": 0.45, "c": 0.25}, {"a": 0, "b": 1, "c": 0}),
        (0, {"a": 1.0}, {"a": 0}),
    ],
)
def test_allocate(total, shares, counts):
    assert allocate(total, shares) == counts


def test_allocate_always_adds_up():
    rng = np.random.default_rng(0)
    for total in (1, 7, 36, 1009):
        for _ in range(50):
            parts = rng.dirichlet(np.ones(4))
            counts = allocate(total, dict(zip("abcd", parts, strict=True)))
            assert sum(counts.values()) == total
            assert all(abs(counts[k] - total * p) < 1 for k, p in zip("abcd", parts, strict=True))


def test_published_shares_are_those_of_the_paper():
    shares = published_shares(CATALOGUE / "yulan-mini" / "data_mix.csv")
    assert list(shares) == list(range(1, 28))
    assert all(sum(mix.values()) == pytest.approx(1) for mix in shares.values())
    assert shares[10] == pytest.approx(
        {"web": 0.6, "code": 0.2, "maths": 0.1, "chinese": 0.1}, abs=0.03
    )


def test_a_stream_gives_every_document_once_an_epoch():
    documents = [np.full(length, length, dtype=np.int64) for length in (1, 2, 3, 4)]
    stream = TokenStream(documents, seed=1)
    for _ in range(3):
        assert sorted(stream.take(10).tolist()) == [1, 2, 2, 3, 3, 3, 4, 4, 4, 4]


@pytest.fixture(scope="module")
def shares():
    return {
        1: {"web": 0.5, "chinese": 0.25, "code": 0.25, "maths": 0.0},
        2: {"web": 0.0, "chinese": 0.0, "code": 0.0, "maths": 1.0},
    }


def test_a_mix_has_exactly_its_shares_and_follows_the_seed(tokenizer, shares):
    def draw(seed):
        mix = Mix(DOCUMENTS, tokenizer, shares, seed)
        return [mix.phase(1, 4, 4, 32), mix.phase(2, 2, 4, 32)]

    first, again, other = draw(5), draw(5), draw(6)
    assert [np.shape(phase) for phase in first] == [(4, 4, 32), (2, 4, 32)]
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first[0], other[0])
    # Each sequence is of one domain: it is found among what that domain's stream gives next.
    streams = Mix(DOCUMENTS, tokenizer, shares, 5)._streams
    drawn = np.concatenate(first[0])
    counts = {
        domain: sum(
            any(np.array_equal(row, taken) for row in drawn)
            for taken in [streams[domain].take(32) for _ in range(16)]
        )
        for domain in DOMAINS
    }
    assert counts == {"web": 8, "chinese": 4, "code": 4, "maths": 0}
