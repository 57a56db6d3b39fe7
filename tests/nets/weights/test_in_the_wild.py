"""Weights files as the field writes them: the right tensors are judged, or a reason is given."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import abatis
from abatis.errors import UsageError

MAKER = Path(__file__).resolve().parents[4] / "shared" / "world" / "make_checkpoints.py"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of the files and what is expected of each."""
    if not MAKER.is_file():
        pytest.skip("the shared inputs are not here")
    folder = tmp_path_factory.mktemp("wild")
    subprocess.run([sys.executable, str(MAKER), str(folder)], check=True)
    return folder, json.loads((folder / "expected.json").read_text())


def test_every_file_is_loaded_right_or_refused_in_words(made):
    folder, expected = made
    images = (torch.arange(6144) * 7 % 256).view(2, 3, 32, 32) / 255
    assert len(expected) == 18
    for name, wanted in expected.items():
        options = {"backbone": f"{MAKER}:tiny", "allow_pickle": True}
        if wanted["judge"] != "good":
            with pytest.raises(UsageError) as caught:
                abatis.load(folder / name, **options)
            assert len(str(caught.value).splitlines()) <= 4, name
            continue
        network = abatis.load(folder / name, **options)
        torch.testing.assert_close(
            network(images), torch.tensor(wanted["logits"]), rtol=0, atol=1e-6, msg=name
        )


def test_reasons_name_what_a_file_is(made):
    folder, _ = made
    for name, words in {
        "torchscript.pt": "TorchScript program",
        "page.pth": "web page",
        "optimizer_only.pth": "state of an optimizer",
        "whole_module.pt": "a pickled .*Tiny, which is code",
        "last_and_best.pt": "last, best",
    }.items():
        with pytest.raises(UsageError, match=words):
            abatis.load(folder / name, backbone=f"{MAKER}:tiny", allow_pickle=True)


def test_a_program_is_judged_as_it_is(made):
    folder, expected = made
    images = (torch.arange(6144) * 7 % 256).view(2, 3, 32, 32) / 255
    with pytest.raises(UsageError, match="is a program"):
        abatis.load(folder / "torchscript.pt")
    network = abatis.load(folder / "torchscript.pt", allow_pickle=True)
    wanted = torch.tensor(expected["plain.pth"]["logits"])
    torch.testing.assert_close(network(images), wanted, rtol=0, atol=1e-6)
