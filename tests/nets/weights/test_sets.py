"""Which of several sets of weights is loaded, and what is said of the rest."""

from __future__ import annotations

import argparse
import collections
import json
import os
import pathlib
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from abatis.errors import UsageError
from abatis.nets.normalising import Normalized
from abatis.nets.weights import load_into, read_contents, start_from
from abatis.nets.weights.choosing import WeightsMismatch
from tests.nets.weights.common import IMAGES, Tiny, load_tiny, logits_of, make_state, put, run

GOOD, RAW = make_state(0), make_state(1)
MEAN, STD = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.25, 0.3])
NORMALISED = (IMAGES - MEAN.view(1, 3, 1, 1)) / STD.view(1, 3, 1, 1)


def save(path, content):
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    ("content", "label", "other"),
    [
        ({"state_dict": RAW, "state_dict_ema": GOOD}, "state_dict_ema", "state_dict"),
        ({"model": RAW, "model_ema": put("module.", GOOD)}, "model_ema", "model"),
        (
            {"model_state_dict": GOOD, "unaveraged_model_state_dict": RAW},
            "model_state_dict",
            "unaveraged_model_state_dict",
        ),
        (
            {"state_dict": {**put("net.", RAW), **put("ema_model.", GOOD)}},
            "state_dict.ema_model",
            "state_dict.net",
        ),
        (
            {"state_dict": RAW, "callbacks": {"EMA": {"ema_weights": GOOD}}},
            "callbacks.EMA.ema_weights",
            "state_dict",
        ),
    ],
)
def test_the_average_is_the_default_and_both_are_named(tmp_path, content, label, other):
    path = save(tmp_path / "w.pt", content)
    found = load_tiny(path)
    assert torch.equal(logits_of(found), run(GOOD))
    (note,) = [text for text in found.notes if "would fit too" in text]
    assert f"'{label}'" in note
    assert other in note
    assert "--weights-key" in note
    assert torch.equal(logits_of(load_tiny(path, key=other)), run(RAW))
    assert torch.equal(logits_of(load_tiny(path, key=label)), run(GOOD))


PARAMETERS = {name: value for name, value in GOOD.items() if "running" not in name}


@pytest.mark.parametrize(
    ("content", "average"),
    [
        ({"model": RAW, "ema": {"shadow": PARAMETERS}}, "ema.shadow"),
        ({"model": RAW, "ema": {"decay": 0.9, "shadow_params": [*PARAMETERS.values()]}}, "ema.sha"),
        ({"model": RAW, "EMA": PARAMETERS}, "EMA"),
        (
            {"model": {**RAW, **{f"model_ema.{k.replace('.', '')}": v for k, v in GOOD.items()}}},
            "model_ema.convweight",
        ),
    ],
)
def test_an_average_that_does_not_fit_is_not_passed_over(tmp_path, content, average):
    path = save(tmp_path / "w.pt", content)
    with pytest.raises(UsageError, match=f"average of the weights .{average}") as caught:
        load_tiny(path)
    assert "--weights-key model" in str(caught.value)
    with pytest.raises(UsageError, match="average of the weights"):
        start_from(Tiny(), read_contents(path, True), "Tiny")
    if average != "model_ema.convweight":
        assert torch.equal(logits_of(load_tiny(path, key="model")), run(RAW))


def test_averages_without_tensors_change_nothing_and_other_sets_are_named(tmp_path):
    for none in ({}, None, "there/ema.pth", {"decay": 0.9}):
        found = load_tiny(save(tmp_path / "w.pt", {"state_dict": GOOD, "state_dict_ema": none}))
        assert torch.equal(logits_of(found), run(GOOD))
    other = {"w": torch.ones(2), "b": torch.ones(2)}
    found = load_tiny(save(tmp_path / "w.pt", {"net": GOOD, "discriminator": other}))
    assert "not used, for it does not fit: discriminator" in found.notes


def test_sets_without_a_convention_are_chosen_by_the_user(tmp_path):
    path = save(tmp_path / "w.pt", {"last": GOOD, "best": RAW})
    with pytest.raises(UsageError, match="2 sets of weights that fit: last, best"):
        load_tiny(path)
    assert torch.equal(logits_of(load_tiny(path, key="best")), run(RAW))
    with pytest.raises(UsageError, match="no weights 'ema'") as caught:
        load_tiny(path, key="ema")
    assert "last, best" in str(caught.value)
    same = save(tmp_path / "same.pt", {"last": GOOD, "best": GOOD})
    assert torch.equal(logits_of(load_tiny(same)), run(GOOD))


def test_a_set_that_was_asked_for_and_does_not_fit_is_not_replaced(tmp_path):
    broken = {name: value for name, value in GOOD.items() if name != "conv.bias"}
    path = save(tmp_path / "w.pt", {"state_dict": RAW, "state_dict_ema": broken})
    with pytest.raises(UsageError, match=r"\(state_dict_ema\).*missing \(conv.bias\)"):
        load_tiny(path, key="ema")


def test_prefixes_are_found_and_wrapped_networks_take_bare_weights(tmp_path):
    for prefix in ("module.", "_orig_mod.module.", "my.own.attribute.", "module.0."):
        found = load_tiny(save(tmp_path / "w.pt", put(prefix, GOOD)))
        assert torch.equal(logits_of(found), run(GOOD))
        assert any(repr(prefix) in note for note in found.notes)
        assert not found.doubts
    bare = read_contents(save(tmp_path / "w.pt", GOOD), True)
    wrapped = Normalized(Tiny(), MEAN.tolist(), STD.tolist())
    found = load_into(wrapped, bare, "Tiny")
    torch.testing.assert_close(logits_of(found), run(GOOD, NORMALISED), rtol=0, atol=1e-6)
    assert not found.normalised  # the file did not say it
    outer = nn.Sequential(nn.Identity(), Tiny())
    assert torch.equal(logits_of(load_into(outer, bare, "Tiny")), run(GOOD))


def test_a_layer_before_the_network_without_tensors_is_doubted(tmp_path):
    found = load_tiny(save(tmp_path / "w.pt", put("module.1.", GOOD)))
    (doubt,) = found.doubts
    assert "perhaps a normalisation" in doubt
    asked = load_tiny(tmp_path / "w.pt", statistics=(MEAN.tolist(), STD.tolist()))
    assert not asked.doubts
    torch.testing.assert_close(logits_of(asked), run(GOOD, NORMALISED), rtol=0, atol=1e-6)


def test_the_normalisation_of_the_file_counts_unless_another_is_asked_for(tmp_path):
    for names in (("0.mean", "0.std"), ("0.mu", "0.sigma"), ("norm.new_mean", "norm.new_std")):
        pair = dict(zip(names, (MEAN.view(1, 3, 1, 1), STD.view(3, 1, 1)), strict=True))
        path = save(tmp_path / "w.pt", {**pair, **put("1.", GOOD)})
        found = load_tiny(path)
        assert found.normalised
        assert any("mean (0.4, 0.5, 0.6), std (0.2, 0.25, 0.3)" in note for note in found.notes)
        torch.testing.assert_close(logits_of(found), run(GOOD, NORMALISED), rtol=0, atol=1e-6)
        asked = load_tiny(path, statistics=((0.0,) * 3, (1.0,) * 3))
        assert torch.equal(logits_of(asked), run(GOOD))


def test_a_normalisation_that_does_nothing_is_one_too(tmp_path):
    same = {"mean": torch.zeros(3), "std": torch.ones(3)}
    found = load_tiny(save(tmp_path / "w.pt", {**same, **put("model.", GOOD)}))
    assert found.normalised  # so that nobody puts another one there
    assert torch.equal(logits_of(found), run(GOOD))
    wrapped = Normalized(Tiny(), MEAN.tolist(), STD.tolist())
    found = load_into(wrapped, read_contents(tmp_path / "w.pt", True), "Tiny")
    assert torch.equal(logits_of(found), run(GOOD))
    inner = {"model.0.mean": MEAN, "model.0.std": STD, **put("model.1.", GOOD)}
    found = load_tiny(save(tmp_path / "w.pt", {**same, **inner}))
    torch.testing.assert_close(logits_of(found), run(GOOD, NORMALISED), rtol=0, atol=1e-6)


def test_two_normalisations_or_one_for_bytes_are_refused(tmp_path):
    two = {"a.mean": MEAN, "a.std": STD, "b.mean": MEAN + 0.1, "b.std": STD, **put("n.", GOOD)}
    with pytest.raises(UsageError, match="several normalisations"):
        load_tiny(save(tmp_path / "w.pt", two))
    large = {"0.mean": MEAN * 255, "0.std": STD * 255, **put("1.", GOOD)}
    with pytest.raises(UsageError, match=r"not for images in \[0, 1\]"):
        load_tiny(save(tmp_path / "w.pt", large))


def test_leftovers_are_named_and_unknown_ones_refuse(tmp_path):
    extra = {
        "criterion.weight": torch.ones(5),
        "sub_block1.conv.weight": torch.ones(1),
        "fc.total_ops": torch.zeros(1),
    }
    found = load_tiny(save(tmp_path / "w.pt", {**put("model.", GOOD), **put("model.", extra)}))
    (note,) = [text for text in found.notes if "not part of the network" in text]
    assert all(name in note for name in extra)
    deeper = {**GOOD, "layer4.conv.weight": torch.ones(1)}
    with pytest.raises(UsageError, match=r"1 tensors that Tiny does not have: layer4.conv.weight"):
        load_tiny(save(tmp_path / "w.pt", deeper))


def test_what_differs_is_counted_and_shown(tmp_path):
    odd = {name: value for name, value in GOOD.items() if not name.startswith("norm")}
    odd["conv.weight"] = torch.zeros(4, 3, 5, 5)
    odd["more"] = torch.zeros(1)
    with pytest.raises(UsageError) as caught:
        load_tiny(save(tmp_path / "w.pt", odd))
    text = str(caught.value)
    assert "4 of 9 tensors are missing (norm.weight, norm.bias, norm.running_mean, ...)" in text
    assert "1 have other shapes (conv.weight: (4, 3, 5, 5) in the file, (4, 3, 3, 3) in" in text
    assert "1 of the file are not expected (more)" in text
    with pytest.raises(UsageError, match="no tensor has a name of the network"):
        load_tiny(save(tmp_path / "w.pt", {"a.b": torch.zeros(3), "c": torch.zeros(3)}))


def test_a_head_of_another_size_is_told_and_may_be_new_in_a_training(tmp_path):
    path = save(tmp_path / "w.pt", {"state_dict": put("module.", make_state(0, 7))})
    with pytest.raises(WeightsMismatch, match=r"has 7 outputs and Tiny 5") as caught:
        load_tiny(path)
    assert caught.value.outputs == 7
    net = Tiny()
    before = net.fc.weight.clone()
    told = start_from(net, read_contents(path, True), "Tiny")
    assert "new head (fc.weight, fc.bias)" in told
    assert torch.equal(net.fc.weight, before)
    assert torch.equal(net.conv.weight, make_state(0, 7)["conv.weight"])
    headless = {name: value for name, value in GOOD.items() if not name.startswith("fc")}
    told = start_from(net, read_contents(save(path, headless), True), "Tiny")
    assert "new head" in told
    del headless["norm.weight"]
    with pytest.raises(UsageError, match="missing"):
        start_from(net, read_contents(save(path, headless), True), "Tiny")


def test_tied_weights_and_old_norms_are_complete(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Linear(3, 3)
            self.two = nn.Linear(3, 3)
            self.two.weight = self.one.weight

    state = {name: value + 0 for name, value in Tied().state_dict().items()}
    del state["two.weight"]
    net = Tied()
    load_into(net, read_contents(save(tmp_path / "w.pt", state), True), "Tied")
    assert torch.equal(net.two.weight, state["one.weight"])
    old = {name: value for name, value in GOOD.items() if "num_batches" not in name}
    assert torch.equal(logits_of(load_tiny(save(tmp_path / "w.pt", old))), run(GOOD))


class Shell:
    def __reduce__(self):
        return os.system, ("touch hacked",)


def test_nothing_in_a_pickle_is_run_and_what_is_left_out_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = {
        "state_dict": collections.defaultdict(list, GOOD),
        "shell": Shell(),
        "args": argparse.Namespace(lr=0.1),
        "best": np.float64(0.5),
        "path": pathlib.PurePosixPath("x"),
        "partial": [slice(1, 2)],
    }
    for zipped in (True, False):
        torch.save(content, "w.pt", _use_new_zipfile_serialization=zipped)
        found = load_tiny(tmp_path / "w.pt")
        assert torch.equal(logits_of(found), run(GOOD))
        (note,) = [text for text in found.notes if "not read" in text]
        for word in ("posix.system", "argparse.Namespace", "args", "best", "path"):
            assert word in note
    assert not pathlib.Path("hacked").exists()
    with pytest.raises(UsageError, match="is a pickle") as caught:
        read_contents(tmp_path / "w.pt")
    assert "--allow-pickle" in str(caught.value)


def test_values_that_are_no_weights_are_refused(tmp_path):
    conv = GOOD["conv.weight"]
    for odd, words in {
        (conv * 100).to(torch.int8): "int8 in place of floating-point weights: 1 tensors .conv.w",
        conv.to(torch.complex64): "complex64 in place of",
        conv * torch.nan: "NaN or infinity in 1 of 9 tensors .conv.weight",
        conv / 0: "NaN or infinity",
    }.items():
        path = save(tmp_path / "w.pt", {**GOOD, "conv.weight": odd})
        with pytest.raises(UsageError, match=words):
            load_tiny(path)
        with pytest.raises(UsageError, match=words):
            start_from(Tiny(), read_contents(path, True), "Tiny")
    counted = {**GOOD, "norm.num_batches_tracked": torch.tensor(2.5)}  # an average of counters
    assert torch.equal(logits_of(load_tiny(save(path, counted))), run(GOOD))


def test_the_content_decides_and_not_the_suffix(tmp_path):
    found = load_tiny(save(tmp_path / "w.safetensors", GOOD))
    assert torch.equal(logits_of(found), run(GOOD))
    save_file(GOOD, tmp_path / "w.ckpt")
    whole = (tmp_path / "w.ckpt").read_bytes()
    end = 8 + int.from_bytes(whole[:8], "little")
    for length in (0x4B50, 0x43C):  # the first bytes are part of a length, here "PK" and "<"
        header = length.to_bytes(8, "little") + whole[8:end].ljust(length)
        (tmp_path / "w.ckpt").write_bytes(header + whole[end:])
        assert torch.equal(logits_of(load_tiny(tmp_path / "w.ckpt")), run(GOOD))


def test_a_folder_without_a_usual_name_lists_its_files(tmp_path):
    save(tmp_path / "best.pth", GOOD)
    with pytest.raises(UsageError, match="no weights in") as caught:
        read_contents(tmp_path, True)
    assert "name one of its files: best.pth" in str(caught.value)


def test_files_that_are_no_weights_are_called_what_they_are(tmp_path):
    path = tmp_path / "w.bin"
    save(path, GOOD)
    whole = path.read_bytes()
    for content, words in {
        b"": "is empty",
        b"\n <!DOCTYPE html><html>": "web page",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n": "Git LFS pointer",
        whole[:-200]: "cut off or damaged",
        b"\x1f\x8b" + b"0" * 20: "gzip",
        b"junk" * 9: "is a text, not weights: 'junkjunk",
        b'{"error": "Access denied"}': "is a text",
        b"<!-- saved --><html>": "web page",
        b"\x89PNG\r\n\x1a\n" + bytes(9): "PNG image",
        b"\x89HDF\r\n\x1a\n" + bytes(9): "HDF5",
        b"\xfd7zXZ\0" + bytes(9): "compressed by xz",
        bytes(40): "is blank",
        whole[100:]: "damaged or of another kind",
        pickle.dumps(GOOD): "written by pickle",
    }.items():
        path.write_bytes(content)
        with pytest.raises(UsageError, match=words) as caught:
            read_contents(path, True)
        assert len(str(caught.value).splitlines()) <= 4
        assert "weights_only" not in str(caught.value)


def test_parts_with_an_index_are_joined_and_a_missing_one_is_told(tmp_path):
    names = list(GOOD)
    parts = {f"model-0000{n}-of-00002.safetensors": names[n - 1 :: 2] for n in (1, 2)}
    for file, keys in parts.items():
        save_file({key: GOOD[key] for key in keys}, tmp_path / file)
    places = {key: file for file, keys in parts.items() for key in keys}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    assert torch.equal(logits_of(load_tiny(tmp_path)), run(GOOD))
    index.write_text(json.dumps({"weight_map": {**places, "lost": next(iter(parts))}}))
    with pytest.raises(UsageError, match="1 tensors that the index lists are missing"):
        load_tiny(tmp_path)
    index.write_text(json.dumps({"weight_map": {"x": "../other.safetensors"}}))
    with pytest.raises(UsageError, match="outside of its folder"):
        load_tiny(tmp_path)
    (tmp_path / next(iter(parts))).unlink()
    index.write_text(json.dumps({"weight_map": places}))
    with pytest.raises(UsageError, match="No such file"):
        load_tiny(tmp_path)
