"""torch.export programs and ONNX files: the same network, and judged as one."""

from __future__ import annotations

import sys

import pytest
import torch

import abatis
from abatis.commands.export import command
from abatis.commands.export.program import TOLERANCE
from abatis.commands.export.torchscript import write_script
from abatis.data import DataRequest, describe
from abatis.errors import UsageError
from abatis.runs.model_spec import find_model
from abatis.runs.open_model import open_model

IMAGES = torch.rand(7, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def export(folder, out, form):
    return command([str(folder), "--out", str(out), "--to", form])


def judged_as(file, allow_pickle=False):
    """The module that ``defense eval FILE`` judges, and the threat it takes."""
    subject = find_model(str(file), None, allow_pickle)
    module, *_ = open_model(subject, describe(DataRequest("digits")), torch.device("cpu"))
    return module.eval(), subject.threat


def logits_and_gradient(module, x):
    x = x.clone().requires_grad_()
    logits = module(x)
    (gradient,) = torch.autograd.grad(logits[:, 0].sum(), x)
    return logits.detach(), gradient


def assert_same(module, folder):
    """In logits and gradients, for any batch size."""
    for size in (1, 7):
        seen, expected = (
            logits_and_gradient(one, IMAGES[:size]) for one in (module, abatis.load(folder))
        )
        for ours, theirs in zip(seen, expected, strict=True):
            torch.testing.assert_close(
                ours, theirs, rtol=0, atol=TOLERANCE * theirs.abs().max().item()
            )


def test_a_program_is_judged_as_the_network_it_is(judged, tmp_path):
    folder = judged()
    export(folder, tmp_path, "torch-export")
    module, threat = judged_as(tmp_path / "model.pt2", allow_pickle=True)
    assert threat == "Linf:0.1"
    assert_same(module, folder)
    assert "`model.pt2`" in (tmp_path / "README.md").read_text()


def test_torchscript_is_the_same_network(judged, tmp_path, capsys):
    folder = judged()
    export(folder, tmp_path, "torchscript")
    assert "differ from the run's network by at most" in capsys.readouterr().out
    module, threat = judged_as(tmp_path / "model.ts.pt", allow_pickle=True)
    assert threat == "Linf:0.1"
    assert_same(module, folder)
    plain = torch.jit.load(tmp_path / "model.ts.pt")
    assert plain(IMAGES).shape == (7, 10)
    with pytest.raises(UsageError, match="is a program"):
        find_model(str(tmp_path / "model.ts.pt"))


class Noisy(torch.nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :3] + torch.rand(3)


def test_a_network_that_torchscript_would_change_is_refused(tmp_path):
    x, y = torch.rand(6, 1, 4, 4), torch.zeros(6, dtype=torch.int64)
    with pytest.raises(UsageError, match="differs by"):
        write_script(Noisy(), x, y, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_program_runs_only_where_that_was_said(tmp_path):
    (tmp_path / "x.pt2").write_bytes(b"no archive")
    with pytest.raises(UsageError, match="is a program") as caught:
        judged_as(tmp_path / "x.pt2")
    assert "--allow-pickle" in caught.value.fix
    with pytest.raises(UsageError, match=r"cannot read .* as a torch\.export program"):
        judged_as(tmp_path / "x.pt2", allow_pickle=True)


@pytest.mark.slow
def test_onnx_is_the_same_network(judged, tmp_path, capsys):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    folder = judged()
    export(folder, tmp_path, "onnx")
    assert "ONNX Runtime's logits differ" in capsys.readouterr().out
    module, threat = judged_as(tmp_path / "model.onnx")
    assert threat == "Linf:0.1"
    assert_same(module, folder)
    with torch.no_grad():  # the values are those of the file, not of the weights beside it
        module.gradients.backbone.fc.bias += 1
    torch.testing.assert_close(module(IMAGES), abatis.load(folder)(IMAGES), rtol=0, atol=1e-4)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UsageError, match="has no gradients"):
        judged_as(tmp_path / "model.onnx")


def test_what_onnx_needs_is_said(judged, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UsageError, match="ONNX needs onnx, which is not installed") as caught:
        export(judged(), tmp_path, "onnx")
    assert caught.value.fix == "pip install 'abatis[onnx]'"
    assert list(tmp_path.iterdir()) == []
