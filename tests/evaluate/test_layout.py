"""An evaluation runs its attacks in one layout, records it, and gives the same bits in it again."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

import abatis
from abatis.api.threat import Threat
from abatis.cli import main
from abatis.errors import UsageError
from abatis.evaluate import EvaluationRequest, evaluate
from abatis.evaluate.judge import Judge
from abatis.nets.layout import LAYOUTS

CPU = torch.device("cpu")


class Noting(nn.Module):
    """A network that notes the layout of its images where gradients are asked for."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 2)
        self.found = set()

    def forward(self, x):
        if x.requires_grad:
            for name, layout in LAYOUTS.items():
                if x.is_contiguous(memory_format=layout):
                    self.found.add(name)
        return self.head(self.conv(x).relu().mean((2, 3)))

    def __deepcopy__(self, memo):  # a copy notes for itself
        other = Noting()
        other.load_state_dict(self.state_dict())
        return other


def ask(points, net, **changes):
    x = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        data = points(x, net(x).argmax(1), torch.arange(6))
    settings = {"ladder": "quick", "seed": 0, "batch_size": 6, "device": CPU, "num_classes": 2}
    return EvaluationRequest(data, Threat.parse("Linf:0.02"), **(settings | changes))


def note_attacks(patch):
    """By attack, the layouts of the images that its gradients were asked at."""
    run, found = Judge.run_attack, {}

    def noted(self, name, *rest, **named):
        self.net.module.found.clear()
        result = run(self, name, *rest, **named)
        found[name] = set(self.net.module.found)
        return result

    patch.setattr(Judge, "run_attack", noted)
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
def test_attacks_run_in_the_layout_that_is_asked_for(points, monkeypatch, layout):
    net, found = Noting(), note_attacks(monkeypatch)
    result = evaluate(net, ask(points, net, layout=layout))
    assert found["PGD-20"] == found["margin-PGD-20"] == {layout}
    assert result.layout == result.to_json()["layout"] == layout


def test_a_network_that_cannot_run_in_channels_last_is_recorded_as_contiguous(points):
    class Flat(Noting):
        def forward(self, x):
            return super().forward(x.view(len(x), -1).view(x.shape))

    net = Flat()
    assert evaluate(net, ask(points, net, layout="channels_last")).layout == "contiguous"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_recorded_layout_gives_the_same_bits(points, monkeypatch, layout):
    net, run, images = Noting(), Judge.run_attack, []

    def kept(self, name, attack, *rest, **named):
        def noted(batch):
            images.append(attack(batch))
            return images[-1]

        return run(self, name, noted, *rest, **named)

    monkeypatch.setattr(Judge, "run_attack", kept)
    told = [evaluate(net, ask(points, net, layout=layout)).to_json()]
    first, images[:] = list(images), []
    told.append(evaluate(net, ask(points, net, layout=told[0]["layout"])).to_json())
    assert json.dumps(told[0]) == json.dumps(told[1])
    assert len(first) == len(images) > 2
    for one, other in zip(first, images, strict=True):
        assert torch.equal(one[0], other[0])


def test_a_kept_attack_of_another_layout_runs_again(points, tmp_path, monkeypatch):
    net, found = Noting(), note_attacks(monkeypatch)
    request = ask(points, net, state=tmp_path / "state.json", layout="channels_last")
    evaluate(net, request)
    found.clear()
    evaluate(net, request)
    assert "margin-PGD-20" not in found
    evaluate(net, replace(request, layout="contiguous"))
    assert found["margin-PGD-20"] == {"contiguous"}


def test_judge_takes_a_layout_and_refuses_others():
    net, x = Noting(), torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        y = net(x).argmax(1)
    told = {"threat": "Linf:0.02", "ladder": "quick", "num_classes": 2, "quiet": True}
    assert abatis.judge(net, (x, y), layout="contiguous", **told).layout == "contiguous"
    assert abatis.judge(net, (x, y), **told).layout == "channels_last"
    with pytest.raises(UsageError, match=r"did you mean .*channels_last"):
        abatis.judge(net, (x, y), layout="channel_last", **told)


FACTORY = """
from torch import nn

def net():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 10))
"""


def test_the_command_writes_and_says_the_layout(tmp_path, capsys):
    (tmp_path / "f.py").write_text(FACTORY)
    words = ["eval", f"{tmp_path}/f.py:net", "--data", "digits", "--subset", "8"]
    words += ["--ladder", "quick", "--out", str(tmp_path / "out"), "--threat", "Linf:0.1"]
    assert main([*words, "--layout", "contiguous"]) == 0
    assert "attacks in contiguous memory" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "eval.json").read_text())["layout"] == "contiguous"
    assert main([*words[:-4], "--ladder", "clean", "--layout", "contiguous"]) == 2
