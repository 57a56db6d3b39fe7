"""Philox-4x32-10 against its published vectors, and the numbers that are made of it."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from abatis.api.philox import MASK, draw_integers, draw_normal, draw_uniform, philox

# Random123 (Salmon et al.), kat_vectors: philox4x32 10, counter, key, result
KNOWN = [
    (
        (0, 0, 0, 0),
        (0, 0),
        (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
    ),
    (
        (MASK, MASK, MASK, MASK),
        (MASK, MASK),
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
KEY = 0x0123_4567_89AB_CDEF
ROWS = torch.arange(64)
IMAGES = torch.empty(64, 3, 32, 32)
KNOWN_LIMIT = 1e-4  # of a p-value; the draws are fixed, so no test fails by chance


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_the_published_vectors(counter, key, expected):
    words = philox(tuple(torch.tensor([word]) for word in counter), key[0] | key[1] << 32)
    assert tuple(int(word) for word in words) == expected


def test_numbers_are_words_of_their_counter():
    """Row r, place j: word j // blocks of the counter (j % blocks, r's words, 0)."""
    like, row = torch.empty(1, 2, 5), 2**40 + 3  # 10 numbers: 3 blocks
    drawn = draw_uniform(KEY, torch.tensor([row]), like).flatten()
    high, low = (torch.tensor([word]) for word in (row >> 32, row & MASK))
    for place in range(10):
        counter = (torch.tensor([place % 3]), high, low, torch.tensor([0]))
        word = int(philox(counter, KEY)[place // 3])
        assert float(drawn[place]) == (word >> 8) / 2**24


def test_rows_alone_are_rows_of_all(monkeypatch):
    for draw in (draw_uniform, draw_normal):
        whole = draw(KEY, ROWS, IMAGES)
        some = torch.tensor([63, 0, 17])
        torch.testing.assert_close(draw(KEY, some, IMAGES), whole[some], rtol=0, atol=0)
        monkeypatch.setattr("abatis.api.philox.AT_ONCE", 10_000)  # in parts: 13 rows each
        assert torch.equal(draw(KEY, ROWS, IMAGES), whole)
        monkeypatch.undo()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_types_differ_in_digits_alone(dtype):
    exact = draw_uniform(KEY, ROWS, IMAGES.double())
    drawn = draw_uniform(KEY, ROWS, IMAGES.to(dtype))
    step = max(2**-32, torch.finfo(dtype).eps / 2)
    assert drawn.dtype == dtype
    assert torch.equal(drawn.double(), (exact / step).floor() * step)
    assert float(drawn.max()) < 1
    normal = draw_normal(KEY, ROWS, IMAGES.to(dtype))
    expected = draw_normal(KEY, ROWS, IMAGES)
    assert normal.dtype == dtype
    atol = 1e-5 if dtype == torch.float64 else 0
    torch.testing.assert_close(normal.float(), expected.to(dtype).float(), rtol=0, atol=atol)


def test_normals_are_those_of_the_formula_to_1e6():
    """In float64, by numbers of Python's math module."""
    row, words = 5, []
    for block in (0, 1):
        counter = tuple(torch.tensor([word]) for word in (block, 0, row, 0))
        words.append([int(word) / 2**32 for word in philox(counter, KEY)])
    drawn = draw_normal(KEY, torch.tensor([row]), torch.empty(1, 8)).flatten().tolist()
    pairs = [words[0][:2], words[1][:2], words[0][2:], words[1][2:]]  # u, v of four places
    radii = [math.sqrt(-2 * math.log(u + 2**-33)) for u, _ in pairs]
    angles = [2 * math.pi * v for _, v in pairs]
    expected = [r * math.cos(a) for r, a in zip(radii, angles, strict=True)]
    expected += [r * math.sin(a) for r, a in zip(radii, angles, strict=True)]
    assert drawn == pytest.approx(expected, abs=1e-6)


def test_uniform_numbers_are_uniform():
    drawn = draw_uniform(KEY, ROWS, IMAGES).flatten()
    assert stats.kstest(drawn.numpy(), "uniform").pvalue > KNOWN_LIMIT
    counts = torch.bincount((drawn * 1000).long(), minlength=1000)
    assert stats.chisquare(counts.numpy()).pvalue > KNOWN_LIMIT


def test_the_lowest_bits_are_uniform():
    """float64 has all 32 bits of a word."""
    words = (draw_uniform(KEY, ROWS, IMAGES.double()) * 2**32).long().flatten()
    for shift in range(0, 32, 8):
        counts = torch.bincount(words >> shift & 255, minlength=256)
        assert stats.chisquare(counts.numpy()).pvalue > KNOWN_LIMIT


def test_normal_numbers_are_normal():
    drawn = draw_normal(KEY, ROWS, IMAGES).flatten().double()
    assert stats.kstest(drawn.numpy(), "norm").pvalue > KNOWN_LIMIT
    squares = drawn.view(-1, 64).square().sum(1)  # of 64 independent numbers
    assert stats.kstest(squares.numpy(), "chi2", args=(64,)).pvalue > KNOWN_LIMIT


@pytest.mark.parametrize("below", [2, 9, 1000])
def test_integers_are_uniform(below):
    drawn = draw_integers(KEY, torch.arange(20_000), (3,), below)
    counts = torch.bincount(drawn.flatten(), minlength=below)
    assert len(counts) == below
    assert stats.chisquare(counts.numpy()).pvalue > KNOWN_LIMIT


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((KEY, 0), (KEY, 1)),  # neighbouring rows
        ((KEY, 0), (KEY, 2**32)),  # rows of equal lower words
        ((KEY, 0), (KEY + 1, 0)),  # keys that differ in a bit of the first word
        ((KEY, 0), (KEY + 2**32, 0)),  # and of the second
    ],
)
def test_neighbours_are_independent(first, second):
    """A chi-square test of a 32 x 32 table, and no rank correlation."""
    like = torch.empty(1, 200_000)
    a, b = (draw_uniform(key, torch.tensor([row]), like).flatten() for key, row in (first, second))
    table = torch.bincount((a * 32).long() * 32 + (b * 32).long(), minlength=1024)
    assert stats.chi2_contingency(table.view(32, 32).numpy()).pvalue > KNOWN_LIMIT
    assert stats.spearmanr(a.numpy(), b.numpy()).pvalue > KNOWN_LIMIT


@pytest.mark.parametrize("lag", [1, 2, 768, 1536, 3072])
def test_places_of_a_draw_are_independent(lag):
    """768 places lie between the words of a counter, 3072 between rows."""
    drawn = draw_uniform(KEY, ROWS, IMAGES).flatten()
    table = torch.bincount(
        (drawn[:-lag] * 16).long() * 16 + (drawn[lag:] * 16).long(), minlength=256
    )
    assert stats.chi2_contingency(table.view(16, 16).numpy()).pvalue > KNOWN_LIMIT


def test_odd_shapes():
    assert draw_uniform(KEY, ROWS, torch.empty(64)).shape == (64,)
    assert draw_normal(KEY, ROWS[:0], torch.empty(0, 3, 2)).shape == (0, 3, 2)
    assert draw_uniform(KEY, ROWS, torch.empty(64, 0)).shape == (64, 0)
    assert draw_integers(KEY, ROWS, (), 5).shape == (64,)
    assert int(draw_integers(KEY, ROWS, (100,), 2**31).max()) > 2**30
