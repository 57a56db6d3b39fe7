"""``--order balanced`` and ``--class-weights``: for classes with unequal numbers of images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import abatis
from abatis import Term
from abatis.api.context import StepContext
from abatis.data import epoch_batches
from abatis.errors import PluginConflict, UsageError
from abatis.nets.net import Net
from abatis.testing import tiny_batch, tiny_network
from abatis.train.builtin.class_weights import ClassWeighted, find_class_weights
from tests.helpers import final_bytes, tiny

LABELS = torch.tensor([0] * 20 + [2] * 3 + [1] * 7)


def test_every_class_comes_equally_often_and_its_images_take_turns():
    batches = epoch_batches(30, 30, seed=3, epoch=1, order="balanced", labels=LABELS)
    (positions,) = batches
    assert torch.bincount(LABELS[positions]).tolist() == [10, 10, 10]
    times = torch.bincount(positions, minlength=30)
    assert set(times[:20].tolist()) == {0, 1}
    assert set(times[20:23].tolist()) == {3, 4}
    assert set(times[23:].tolist()) == {1, 2}
    assert positions.tolist() != positions.sort().values.tolist()


def test_a_remainder_is_shared_by_chance_and_the_draw_depends_on_seed_and_epoch_alone():
    labels = torch.arange(10) % 4
    seen = set()
    for epoch in range(30):
        torch.manual_seed(epoch)
        first, again = (
            torch.cat(epoch_batches(10, 5, 0, epoch, "balanced", labels)) for _ in range(2)
        )
        assert torch.equal(first, again)
        counts = tuple(torch.bincount(labels[first], minlength=4).tolist())
        assert sorted(counts) == [2, 2, 3, 3]
        seen.add(counts)
    assert len(seen) > 2
    other = torch.cat(epoch_batches(10, 5, 1, 0, "balanced", labels))
    assert not torch.equal(other, torch.cat(epoch_batches(10, 5, 0, 0, "balanced", labels)))


def test_balanced_weights_are_inverse_to_the_counts_with_mean_1_over_the_images():
    weights = find_class_weights("balanced", LABELS, 4)  # class 3 has no image
    assert weights[:3].tolist() == pytest.approx([30 / 60, 30 / 21, 30 / 9])
    assert weights[LABELS].mean().item() == pytest.approx(1.0)
    assert find_class_weights("1,2.5,1", LABELS, 3).tolist() == [1.0, 2.5, 1.0]
    with pytest.raises(UsageError, match="2 numbers for 3 classes"):
        find_class_weights("1,2", LABELS, 3)


def test_terms_are_weighted_per_sample_where_they_may_be():
    batch = tiny_batch(4, 3)
    ctx = StepContext(batch, batch.x, {}, Net(tiny_network(3)), 0, 0, 0.0, 4)
    ce = F.cross_entropy(torch.rand(4, 3), batch.y, reduction="none")

    def inner(ctx):
        return {"ce": Term(ce, reweight=True), "kl": Term(ce, weight=6.0)}

    weights = torch.tensor([0.5, 2.0, 4.0])
    terms = ClassWeighted(inner, weights)(ctx)
    assert torch.equal(terms["ce"].value, ce * weights[batch.y])
    assert torch.equal(terms["kl"].value, ce)
    soft = torch.tensor([[0.5, 0.5, 0.0]] * 4)
    ctx.batch = replace(batch, y_soft=soft)
    assert torch.equal(ClassWeighted(inner, weights)(ctx)["ce"].value, ce * 1.25)
    with pytest.raises(PluginConflict, match="nothing to weight"):
        ClassWeighted(lambda ctx: {"kl": Term(ce)}, weights)(ctx)


def uneven() -> tuple:
    """90 images of class 0, 30 of 1, 6 of 2; 12 test images."""
    source = np.random.default_rng(0)
    y = np.array([0] * 90 + [1] * 30 + [2] * 6)
    x, test = (source.integers(0, 256, (n, 8, 8), dtype=np.uint8) for n in (126, 12))
    return (x, y), (test, np.arange(12) % 3)


@pytest.mark.parametrize("options", [{"order": "balanced"}, {"class_weights": "balanced"}])
def test_a_run_resumes_bit_for_bit_and_says_what_is_changed(tmp_path, plan, options):
    options |= {"validation": 0, "epochs": 2, "data": "digits"}
    options |= {"optim": {"schedule": "constant"}, "batch_size": 20}
    whole = abatis.run(tiny(tmp_path, **options, name="whole"), data=uneven()).folder
    said = " ".join(plan["notes"])
    expected = (
        "42 places for every class: an image of class 2 comes 7 times on average, one of class 0"
        " 0.467 times"
        if "order" in options
        else "the loss of class 2 is weighted by 7, that of class 0 by 0.4667"
    )
    assert expected in said
    abatis.run(tiny(tmp_path, **{**options, "epochs": 1}, name="parts"), data=uneven())
    parts = abatis.run(tiny(tmp_path, **options, name="parts", resume=True), data=uneven()).folder
    assert final_bytes(whole) == final_bytes(parts)
    plain = {**options, "order": "shuffled", "class_weights": "none"}
    assert final_bytes(abatis.run(tiny(tmp_path, **plain), data=uneven()).folder) != final_bytes(
        whole
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"order": "balanced", "class_weights": "balanced"}, "both make up for unequal classes"),
        ({"class_weights": "1,-2"}, "positive numbers"),
        ({"class_weights": "inverse"}, "positive numbers"),
        ({"class_weights": "1,2"}, "2 numbers for 10 classes"),
    ],
)
def test_what_cannot_be_is_refused_before_the_run(tmp_path, options, words):
    with pytest.raises(UsageError, match=words):
        abatis.run(tiny(tmp_path, dry_run=True, data="digits", **options))
