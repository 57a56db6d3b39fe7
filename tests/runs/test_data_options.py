"""``--validation``, ``--order``, ``--crop-padding`` and ``--backbone-init`` in whole runs."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

import abatis
from abatis import RunConfig, UsageError
from abatis.data import DataRequest, open_data
from abatis.nets.backbones import build
from tests.helpers import TINY, final_bytes, tiny


def held_out(folder):
    return json.loads((folder / "held-out.json").read_text())


def test_without_held_out_images_all_are_trained_on_and_the_last_weights_judged(tmp_path, plan):
    """150 images in batches of 50: three steps an epoch. A tenth held out would leave two."""
    result = abatis.run(
        tiny(tmp_path, validation=0, order="fixed", batch_size=50, eval="quick", name="x")
    )
    rows = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [3, 6]
    assert "val_robust_acc" not in rows[0]
    assert held_out(result.folder) == {"training images": 150, "held out": []}
    record = json.loads((result.folder / "eval.json").read_text())
    assert record["selected_at_epoch"] == 2
    assert record["selected_on"] == "nothing: no images were held out"
    weights, last = (
        load_file(result.folder / name)
        for name in ("weights.safetensors", "weights-last.safetensors")
    )
    assert all(torch.equal(weights[name], last[name]) for name in last)
    assert plan["rows"][0].options["held out"] == "0"
    assert plan["rows"][0].options["order"] == "fixed"
    assert "not measured" in (result.folder / "report.html").read_text()
    with pytest.raises(UsageError, match=r"order was fixed, now shuffled"):
        abatis.run(tiny(tmp_path, validation=0, batch_size=50, name="x", resume=True, epochs=3))


def test_the_held_out_images_are_recorded_and_a_resumed_run_must_have_the_same(tmp_path):
    options = {"validation": 0.2, "epochs": 1, "name": "x"}
    folder = abatis.run(tiny(tmp_path, **options)).folder
    request = DataRequest.of(tiny(tmp_path, **options), abatis.data.View())
    expected = open_data(request).val
    assert held_out(folder) == {"training images": 150, "held out": expected.index.tolist()}
    assert torch.bincount(expected.labels, minlength=10).tolist() == [3] * 10
    again = {**options, "epochs": 2, "resume": True, "validation": 0.1}
    with pytest.raises(UsageError, match=r"validation was 0\.2, now 0\.1"):
        abatis.run(tiny(tmp_path, **again))
    with pytest.raises(UsageError, match=r"data\.train was .*data\.val was ") as caught:
        abatis.run(tiny(tmp_path, **again, allow_mismatch=["validation"]))
    assert len(str(caught.value).splitlines()) <= 4


def test_a_run_in_fixed_order_resumes_bit_for_bit(tmp_path):
    options = {"order": "fixed", "validation": 22, "epochs": 2, "optim": {"schedule": "constant"}}
    whole = abatis.run(tiny(tmp_path, **options, name="whole")).folder
    abatis.run(tiny(tmp_path, **{**options, "epochs": 1}, name="parts"))
    parts = abatis.run(tiny(tmp_path, **options, name="parts", resume=True)).folder
    assert final_bytes(whole) == final_bytes(parts)
    shuffled = abatis.run(tiny(tmp_path, **{**options, "order": "shuffled"})).folder
    assert final_bytes(whole) != final_bytes(shuffled)


def test_images_that_a_fixed_order_never_reaches_are_noted(tmp_path, plan):
    abatis.run(tiny(tmp_path, order="fixed", epochs=1))  # 135 of 150 images, in batches of 32
    assert plan["notes"][-1] == (
        "--order fixed: the last 7 of 135 training images are never used, as they do not fill a"
        " batch of 32"
    )
    abatis.run(tiny(tmp_path, order="fixed", epochs=1, batch_size=45))
    assert not any("never used" in note for note in plan["notes"])


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"validation": 1.5}, "--validation 1.5: neither a number"),
        ({"validation": 0, "early_stop": 3}, "--early-stop needs held-out images"),
        ({"validation": -1}, "validation must be at least 0"),
    ],
)
def test_impossible_validations_are_refused(options, complaint):
    with pytest.raises(UsageError, match=complaint):
        RunConfig(**{**TINY, **options})


def test_a_padding_without_crops_is_noted_and_one_with_crops_planned(tmp_path, plan):
    abatis.run(tiny(tmp_path, dry_run=True, crop_padding="reflect"))
    assert plan["notes"][-1] == "--crop-padding reflect has no effect: images are not cropped"
    abatis.run(tiny(tmp_path, dry_run=True, crop_padding="reflect", augment="crop"))
    assert plan["rows"][0].options["crop padding"] == "reflect"
    assert not any("crop" in note for note in plan["notes"])


def test_crop_padding_changes_the_training_and_needs_images_in_memory(tmp_path):
    runs = [
        abatis.run(tiny(tmp_path, epochs=1, augment="crop", crop_padding=padding)).folder
        for padding in ("zeros", "reflect")
    ]
    assert final_bytes(runs[0]) != final_bytes(runs[1])
    with pytest.raises(UsageError, match="--crop-padding reflect needs data in memory"):
        DataRequest("folder:x", crop_padding="reflect").check(streamed=True)


def test_convolutions_begin_as_torch_makes_them_where_asked(tmp_path, plan):
    """Uniform in +-1/sqrt(fan_in) instead of normal with variance 2/fan_out."""
    shape = {"num_classes": 10, "channels": 3, "image_size": 32, "mean": [0.5] * 3, "std": [1] * 3}
    torch.manual_seed(0)
    conv = build("resnet18", **shape, own={"init": "torch"}).backbone.features.stage4_1.path[0]
    bound = (512 * 9) ** -0.5
    assert conv.weight.abs().max().item() == pytest.approx(bound, rel=1e-3)
    assert conv.weight.std().item() == pytest.approx(bound / 3**0.5, rel=1e-2)
    conv = build("resnet18", **shape).backbone.features.stage4_1.path[0]
    assert conv.weight.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=1e-2)
    abatis.run(tiny(tmp_path, dry_run=True, backbone_init="torch"))
    assert plan["rows"][1].options["init"] == "torch"


@pytest.mark.parametrize("model", [None, torch.nn.Linear(1, 1)], ids=["name", "module"])
def test_only_our_own_networks_have_a_choice_of_initial_weights(tmp_path, model):
    config = tiny(tmp_path, backbone="vgg11", dry_run=True, backbone_init="torch")
    with pytest.raises(UsageError, match="--backbone-init torch"):
        abatis.run(config, model=model)
