"""Further images of an attacker: checked, used by losses once each, kept through micro-batches."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from abatis import Attacked, Ball, PluginConfig, PluginError, StepContext, Term, TrainerHooks, run
from abatis.api.threat import Threat
from abatis.nets.net import Net
from abatis.testing import THREAT, loss_terms, plan_of, tiny_batch, tiny_network
from abatis.train.image_checks import check_attacked, find_inside
from tests.helpers import cut_last_epoch, final_bytes, plugin, tiny


class CleanFirst(PluginConfig):
    @property
    def needs_clean(self):
        return True


def inverse_step(run, sign=-1.0, name="inverse"):
    """One step up, and one down from the same images: an inverse adversary's."""

    def attack(forward, batch):
        ball = Ball(batch.x, run.threat)
        x = batch.x.clone().requires_grad_()
        loss = F.cross_entropy(forward(x), batch.y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, x)
        up = ball.climb(batch.x.clone(), gradient.clone(), run.threat.eps)
        down = ball.climb(batch.x.clone(), sign * gradient, run.threat.eps)
        return Attacked(up, images={name: down})

    return attack


def pulls_to_inverse(run):
    """CE at the attack, and the KL from the prediction at the inverse images."""

    def loss(ctx):
        target = ctx.logits("inverse").softmax(1)
        kl = F.kl_div(ctx.logits_adv.log_softmax(1), target, reduction="none").sum(1)
        return {
            "ce": Term(F.cross_entropy(ctx.logits_adv, ctx.batch.y, reduction="none")),
            "kl": Term(kl, 2.0),
        }

    return loss


def inverse(**more):
    return plugin("inverse", attacker=inverse_step, loss=pulls_to_inverse, **more)


def test_a_killed_run_goes_on_to_the_bit(install, tmp_path):
    install(inverse())
    config = {"plugin": ["inverse"], "accumulate": 2}
    whole = run(tiny(tmp_path, name="whole", **config)).folder
    resumed = cut_last_epoch(whole)
    run(tiny(tmp_path, name="resumed", resume=True, **config))
    assert final_bytes(resumed) == final_bytes(whole)


@pytest.mark.parametrize(
    ("more", "order"),
    [
        ({}, ["inverse", "adv"]),
        ({"config": lambda: CleanFirst}, ["clean", "inverse", "adv"]),
    ],
)
def test_logits_are_made_once_in_the_order_of_use(more, order):
    """The clean forward comes first where a plugin needs it."""

    def loss(run):
        def terms(ctx):
            first, value, again = ctx.logits("inverse"), ctx.logits_adv, ctx.logits("inverse")
            assert first is again
            return {"x": Term((first + value).logsumexp(1))}

        return terms

    net, batch, seen = Net(tiny_network(10)), tiny_batch(4, 10), []
    made = plugin("inverse", attacker=inverse_step, loss=loss, **more)
    plan = plan_of(made, net=net, num_classes=10)
    with net.attack_mode():
        attacked = plan.attacker(net, batch)
    images = {"clean": batch.x, "adv": attacked.x, **attacked.images}

    def note(part, given, output):
        seen.extend(name for name, x in images.items() if x is given[0])

    net.module.register_forward_hook(note)
    clean_first = plan.clean_first
    ctx = StepContext(
        batch, attacked.x, {}, net, 0, 0, 0.0, 4, clean_first=clean_first, images=attacked.images
    )
    plan.loss(ctx)
    assert seen == order


def test_trainer_hooks_see_those_of_all_micro_batches(install, tmp_path):
    found = {}

    class Keeps(TrainerHooks):
        def after_update(self, ctx):
            found.setdefault(ctx.step, []).append(ctx.images["inverse"].clone())

    for accumulate in (1, 2):
        install(inverse(trainer=lambda run: Keeps()))
        run(
            tiny(
                tmp_path,
                name=f"run{accumulate}",
                plugin=["inverse"],
                epochs=1,
                accumulate=accumulate,
            )
        )
    assert len(found) == 4
    one, two = found[0]  # the first step has the same weights
    assert torch.allclose(one, two, atol=1e-6)


def test_each_must_lie_in_the_ball_of_one_of_the_threats():
    batch = tiny_batch(4, 10)
    ball, far = Ball(batch.x, THREAT), Ball(batch.x, Threat.parse("L1:2"))
    up = ball.climb(batch.x.clone(), 0.5 - batch.x, THREAT.eps)
    sparse = far.climb(batch.x.clone(), 0.5 - batch.x, 2.0)
    good = Attacked(up, images={"down": batch.x.clone()})
    assert check_attacked(good, batch, (THREAT,), "mine").tolist() == [True] * 4
    other = Attacked(up, images={"sparse": sparse})
    assert check_attacked(other, batch, (THREAT, Threat.parse("L1:2")), "mine").all()
    with pytest.raises(PluginError, match=r"images 'sparse': left the ball .* 4 of 4"):
        check_attacked(other, batch, (THREAT,), "mine")
    # what a GPU defers: the same images are found
    one = up.clone()
    one[2] = sparse[2]
    mixed = Attacked(batch.x, images={"one": one})
    assert find_inside(mixed, batch, (THREAT,), "mine").tolist() == [True, True, False, True]
    twice = Attacked(up, images={"far": batch.x + 2 * (up - batch.x)})
    assert check_attacked(twice, batch, (THREAT,), "mine", reach=2.0).all()


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (lambda x: {"clean": x}, "cannot be named 'clean'"),
        (lambda x: {"one": x[:1]}, r"images 'one': \(1, 3, 8, 8\)"),
        (lambda x: {"one": x.clone().requires_grad_()}, "images 'one'"),
        (lambda x: {"one": x.float()}, "float32"),
        (lambda x: {"one": "x"}, "images 'one': str"),
    ],
)
def test_what_is_no_such_image_is_named(images, words):
    batch = tiny_batch(4, 10)
    with pytest.raises(PluginError, match=words):
        check_attacked(Attacked(batch.x, images=images(batch.x)), batch, (THREAT,), "mine")


def test_an_unknown_name_and_names_that_change_are_said(install, tmp_path):
    install(plugin("asks", loss=pulls_to_inverse))
    with pytest.raises(PluginError, match="the attacker gave no images of this name, but none"):
        run(tiny(tmp_path, name="asks", plugin=["asks"]))
    calls = []

    def attacker(run):
        def attack(forward, batch):
            calls.append(1)
            return inverse_step(run, name=f"inverse{len(calls)}")(forward, batch)

        return attack

    install(plugin("renames", attacker=attacker))
    with pytest.raises(PluginError, match="gave the images inverse1 and inverse2 in one step"):
        run(tiny(tmp_path, name="renames", plugin=["renames"], accumulate=2))


def test_losses_are_tested_with_given_logits():
    """KL of (3/4, 1/4) from (1/2, 1/2): 3/4 log 3/2 - 1/4 log 2."""
    terms = loss_terms(
        inverse(),
        logits_clean=torch.zeros(1, 2),
        logits_adv=torch.zeros(1, 2),
        y=torch.tensor([0]),
        further={"inverse": torch.tensor([[3.0, 1.0]]).log()},
    )
    assert float(terms["kl"].value) == pytest.approx(0.1308122, abs=1e-6)
