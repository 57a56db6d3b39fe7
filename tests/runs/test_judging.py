"""``abatis.judge`` asks the evaluation the right question, whatever network and images it is given;
``abatis.judged_images`` gives the images that were judged."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import abatis
from abatis import UsageError
from abatis.data.digest import digest_split
from abatis.errors import DataError
from abatis.evaluate import EvaluationRequest
from abatis.runs import judging
from tests.helpers import tiny


class Tall(nn.Module):
    """Ten logits of images of 8 x 8; with ``wraps``, in a table."""

    def __init__(self, wraps=False):
        super().__init__()
        self.head, self.wraps = nn.Linear(64, 10), wraps

    def forward(self, x):
        logits = self.head(x.flatten(1))
        return {"logits": logits} if self.wraps else logits


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    config = tiny(tmp_path_factory.mktemp("runs"), epochs=1, limit=60, seed=3, ladder="clean")
    return abatis.run(config).folder


@pytest.fixture
def asked(monkeypatch):
    """What the evaluation was asked: module and request."""
    questions = []

    def evaluate(module: nn.Module, request: EvaluationRequest) -> abatis.Evaluation:
        questions.append((module, request))
        names = dict.fromkeys(abatis.Evaluation.__dataclass_fields__)
        return abatis.Evaluation(**{**names, "findings": ("one",)})

    monkeypatch.setattr(judging, "evaluate", evaluate)
    return questions


def make_images(classes=9):
    x = torch.rand(18, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return x, torch.arange(18) % classes


def test_arrays_with_fewer_classes_than_outputs_do_not_make_an_output_an_abstention(asked):
    net = Tall().train()
    abatis.judge(net, make_images(9), threat="L2:0.5", ladder="quick", quiet=True)
    ((module, request),) = asked
    assert module is net
    assert net.training
    assert request.num_classes == 10
    assert (str(request.threat), request.ladder, request.seed) == ("L2:0.5", "quick", 0)
    assert len(request.points) == 18
    abatis.judge(net, make_images(9), threat="L2:0.5", num_classes=9, quiet=True)
    assert asked[1][1].num_classes == 9


@pytest.mark.parametrize("form", ["arrays", "uint8", "dataset"])
def test_every_form_of_images_gives_the_same_points(form, asked):
    x, y = make_images()
    x = (x * 255).round() / 255
    given = {
        "arrays": (x.numpy(), y.numpy()),
        "uint8": ((x * 255).round().to(torch.uint8)[:, 0], y.tolist()),
        "dataset": TensorDataset(x, y),
    }[form]
    abatis.judge(Tall(), given, threat="Linf:0.1", quiet=True)
    (batch,) = asked[0][1].points.eval_batches(100)
    assert torch.allclose(batch.x, x, atol=1e-7)
    assert torch.equal(batch.y, y)


def test_logits_in_a_table_are_found_and_the_module_gets_no_hook(asked):
    net = Tall(wraps=True)
    abatis.judge(net, make_images(), threat="Linf:0.1", quiet=True)
    module, request = asked[0]
    assert not net._forward_hooks
    assert torch.equal(module(make_images()[0]), net(make_images()[0])["logits"])
    assert request.num_classes == 10


def test_a_run_is_judged_as_it_was_trained(folder, asked):
    for model in (folder, str(folder), abatis.Result(folder)):
        abatis.judge(model, ladder="quick", quiet=True)
    x, y = abatis.judged_images(folder)
    for _, request in asked:
        assert (str(request.threat), request.seed, request.num_classes) == ("Linf:0.1", 3, 10)
        assert request.training is not None
        assert request.origin is not None
        batches = [*request.points.eval_batches(100)]
        assert torch.equal(torch.cat([batch.x for batch in batches]), x)
        assert torch.equal(torch.cat([batch.y for batch in batches]), y)


def test_the_clean_ladder_measures_clean_accuracy_and_says_that_nothing_else_is_known(folder):
    net, (x, y) = Tall(), make_images()
    right = net(x).argmax(1) == y
    found = abatis.judge(net, (x, y), ladder="clean", quiet=True)  # needs no threat
    assert torch.equal(found.per_point["clean"], right)
    assert found.accuracies == {"clean_acc": float(right.double().mean())}
    assert (found.ladder, found.n, found.verdict) == ("clean", 18, None)
    assert any("no attack was run" in finding for finding in found.findings)
    shown = found._repr_html_()
    assert "clean accuracy" in shown
    assert "no attack was run" in shown
    assert "no attack was run" in repr(found)
    record = json.loads((folder / "eval.json").read_text())  # of defense-run --ladder clean
    again = abatis.judge(folder, ladder="clean", quiet=True).to_json()
    assert {key: record[key] for key in again} == again


def test_a_module_is_judged_on_the_test_images_of_a_run_and_a_run_on_arrays(folder, asked):
    abatis.judge(Tall(), folder, quiet=True)
    abatis.judge(folder, make_images(), quiet=True)
    (_, first), (_, second) = asked
    assert (str(first.threat), first.num_classes) == ("Linf:0.1", 10)
    assert (
        digest_split(first.points)
        == json.loads((folder / "eval.json").read_text())["points_sha256"]
    )
    assert (str(second.threat), second.num_classes, second.seed) == ("Linf:0.1", 10, 3)
    assert second.training is None


def test_images_that_were_not_judged_are_refused(folder, tmp_path, monkeypatch):
    record = json.loads((folder / "eval.json").read_text())
    monkeypatch.setattr(
        "abatis.runs.own_images.read_record", lambda _: {**record, "points_sha256": "sha256:0"}
    )
    with pytest.raises(DataError, match="not those that the run was judged on"):
        abatis.judged_images(folder)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"model": Tall}, "not a torch module"),
        ({"model": Tall(), "data": None}, "no data given"),
        ({"model": Tall(), "threat": None}, "no threat given"),
        ({"model": Tall(), "ladder": "none"}, "ladder 'none'"),
        ({"model": Tall(), "data": 3}, "data is a int"),
        ({"model": nn.Flatten(0)}, "Flatten returns a tensor"),
    ],
)
def test_what_cannot_be_judged_is_named(arguments, says):
    given = {"data": make_images(), "threat": "Linf:0.1", "quiet": True, **arguments}
    with pytest.raises(UsageError, match=says):
        abatis.judge(given.pop("model"), given.pop("data"), **given)


@pytest.mark.parametrize("ladder", ["clean", "quick"])
@pytest.mark.parametrize(("shift", "classes"), [(1, None), (0, 9)])
def test_labels_that_are_no_class_of_the_network_are_refused(ladder, shift, classes):
    """Counted from 1, the images of all classes but the last would be compared with the next."""
    x, y = make_images(10)
    with pytest.raises(DataError, match=f"label {9 + shift}, but there are {classes or 10} class"):
        abatis.judge(
            Tall(),
            (x, y + shift),
            threat="Linf:0.1",
            ladder=ladder,
            num_classes=classes,
            quiet=True,
        )


def test_a_result_shows_number_verdict_and_table(tmp_path):
    result = abatis.Result(tmp_path / "<b>", 0.8, 0.5, None, 0.45, None, "PASS", 100)
    shown = result._repr_html_()
    assert "45.00\N{NO-BREAK SPACE}%</strong> robust accuracy" in shown
    assert "masking verdict <strong>PASS</strong>" in shown
    assert "35.6\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}54.8\N{NO-BREAK SPACE}%" in shown  # Wilson
    assert "&lt;b&gt;" in shown
    failed = replace(result, robust_acc=None, robust_acc_upper=0.45, verdict="FAIL")
    assert "not to be believed" in failed._repr_html_()
    assert "not evaluated" in abatis.Result(tmp_path)._repr_html_()
