"""``--shard``: what is refused and why; checkpoints in pieces, with everything that holds for whole
ones.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import abatis
from abatis.errors import UsageError
from abatis.nets.backbones import build
from abatis.nets.backbones.from_timm import with_sync_batch_norm
from abatis.nets.blocks import find_blocks
from abatis.train.checkpoint import PIECES, load_checkpoint
from tests.faults import flip
from tests.helpers import tiny

REFUSED = {
    "one process": ({"shard": "root"}, "there is only one process"),
    "weights": (
        {"shard": "root", "plugin": ["awp"], "dry_run": True},
        "awp works on whole weights",
    ),
    "compiled": (
        {"shard": "root", "compile": "attack", "dry_run": True},
        "--compile is not supported with --shard root",
    ),
    "twice": (
        {"shard": "blocks", "plugin": ["emr"], "backbone": "resnet8", "dry_run": True},
        "emr differentiates a gradient",
    ),
    "no blocks": ({"shard": "blocks", "backbone": "cnn", "dry_run": True}, "no blocks"),
    "sync-bn": ({"sync_bn": True}, "works on GPUs"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_right_is_refused_with_the_reason(tmp_path, name):
    options, complaint = REFUSED[name]
    with pytest.raises(UsageError, match=complaint) as caught:
        abatis.run(tiny(tmp_path, **options))
    assert caught.value.fix
    assert len(str(caught.value).splitlines()) <= 4


def test_penalties_that_differentiate_twice_are_fine_at_the_root(tmp_path):
    abatis.run(tiny(tmp_path, shard="root", plugin=["emr"], dry_run=True))


@pytest.mark.parametrize(
    ("backbone", "kind", "count"),
    [
        ("resnet18", "BasicBlock", 8),
        ("wrn28", "PreActBlock", 12),
        ("swin_tiny_patch4_window7_224", "SwinTransformerBlock", 12),
    ],
)
def test_blocks_are_those_of_the_network(backbone, kind, count):
    size = 224 if "224" in backbone else 32
    with torch.device("meta"):
        found = find_blocks(
            build(
                backbone, num_classes=10, channels=3, image_size=size, mean=[0.5] * 3, std=[0.5] * 3
            )
        )
    assert sum(type(part).__name__ == kind for part in found) == count, [
        type(part).__name__ for part in found
    ]


def test_synchronised_norms_keep_the_activation_behind_them():
    net = build(
        "efficientnet_b0", num_classes=10, channels=3, image_size=64, mean=[0.5] * 3, std=[0.5] * 3
    ).eval()
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = net(x)
        converted = with_sync_batch_norm(net, torch.device("cuda"))
        assert sum(isinstance(part, torch.nn.SyncBatchNorm) for part in converted.modules()) == 49
        assert torch.allclose(converted(x), expected, atol=1e-6)


RUN = (
    "--data",
    "digits",
    "--threat",
    "Linf:0.1",
    "--limit",
    "150",
    "--batch-size",
    "32",
    "--attack.steps",
    "1",
    "--backbone",
    "resnet8",
    "--eval",
    "none",
    "--name",
    "run",
    "--nproc",
    "2",
    "--epochs",
    "3",
    "--checkpoint-every",
    "1",
)


def start(out, *words):
    command = [sys.executable, "-m", "abatis", "run", *RUN, "--out", str(out), *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    told = process.communicate(timeout=300)
    return process.returncode, *told


BREAKS = {
    "unharmed": ("state.pt", Path.stat),
    "flipped": ("__1_0.distcp", flip),
    "deleted": ("__0_0.distcp", Path.unlink),
    "index": (PIECES, flip),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "cases"),
    [
        (("--shard", "root", "--plugin", "emr"), ("unharmed", "deleted")),
        pytest.param(
            ("--shard", "blocks", "--optim.name", "adamw", "--ema", "0.9"),
            ("flipped", "index"),
            marks=pytest.mark.long,
        ),
    ],
)
def test_a_run_in_pieces_stops_saves_and_resumes_bit_for_bit_also_behind_a_broken_piece(
    tmp_path, words, cases
):
    code, out, err = finish(start(tmp_path / "whole", *words))
    assert code == 0, err
    assert re.search(rf"shard\s+{words[1]}", out)
    stopped = start(tmp_path / "stopped", *words)
    for line in stopped.stdout:
        if line.startswith("epoch 2/3"):
            stopped.send_signal(signal.SIGTERM)
            break
    code, _, err = finish(stopped)
    assert code == 75, err
    newest = load_checkpoint(tmp_path / "stopped" / "run" / "checkpoints").folder.name
    for name in cases:
        shutil.copytree(tmp_path / "stopped", tmp_path / name)
        file, harm = BREAKS[name]
        harm(tmp_path / name / "run" / "checkpoints" / newest / file)
        for best in (tmp_path / name / "run").glob("weights*.safetensors"):
            flip(best)
    for name in cases:
        code, out, err = finish(start(tmp_path / name, *words, "--resume"))
        assert code == 0, err
        assert (f"checkpoint rejected: {newest}" in out) == (name != "unharmed")
        # one checkpoint back the best was that of an epoch before, whose own checkpoint may be
        # pruned by now
        assert name != "unharmed" or "starts over" not in out
        for written in (tmp_path / "whole" / "run").glob("weights*.safetensors"):
            assert (tmp_path / name / "run" / written.name).read_bytes() == written.read_bytes()
