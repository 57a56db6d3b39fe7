"""What the hooks of one plugin share, and what its trainer hooks see of the global batch."""

from __future__ import annotations

import torch

from abatis import Attacked, Ball, Term, Threat, TrainerHooks
from abatis.api.randomness import Randomness, seeded
from abatis.nets.net import Net
from abatis.system.distributed import rows_of
from abatis.testing import THREAT, plan_of, smooth_network, step_of, tiny_batch
from abatis.testing.contract.lockstep import Lockstep
from abatis.train.micro_batches import RowShare
from tests.helpers import plugin


class Memory(TrainerHooks):
    """What the attacker reported of every sample, by its index."""

    def __init__(self, run):
        self.run = run
        self.seen = torch.zeros(16, dtype=torch.float64)

    def transform_batch(self, batch):
        self.everyone = self.run.gather(batch.index)
        return batch

    def after_update(self, ctx):
        self.seen[ctx.gather(ctx.batch.index)] = ctx.gather(ctx.info["brightness"])


def remembering():
    def attacker(run):
        seen = run.shared(Memory).seen
        return lambda forward, batch: Attacked(
            batch.x.clone(), {"brightness": batch.x.mean((1, 2, 3)) + seen[batch.index]}
        )

    def loss(run):
        seen = run.shared(Memory).seen
        return lambda ctx: {"x": Term(ctx.logits_adv.logsumexp(1) + seen[ctx.batch.index])}

    return plugin(
        "remembering", attacker=attacker, trainer=lambda run: run.shared(Memory), loss=loss
    )


def two_steps(accumulate=1):
    net, random, rows = Net(smooth_network(10)), Randomness(0), rows_of(7)
    plan = plan_of(remembering(), net=net, num_classes=10, random=random)
    step = step_of(
        net,
        plan,
        torch.optim.SGD(net.module.parameters(), lr=0.0),
        THREAT,
        random,
        accumulate=accumulate,
    )
    with seeded(0, "test"):
        for number in range(2):
            step(tiny_batch(7, 10).rows(rows), number, 0, 0.0, RowShare(rows.start, 7))
    ((_, memory),) = plan.trainers
    return memory


def test_an_object_of_a_run_is_shared_by_its_hooks_and_sees_all_samples_of_all_processes():
    expected = torch.zeros(16, dtype=torch.float64)
    expected[:7] = 2 * tiny_batch(7, 10).x.mean((1, 2, 3))
    for memory in (two_steps(), two_steps(accumulate=3), *Lockstep(2).play(two_steps)):
        assert torch.allclose(memory.seen, expected, rtol=0, atol=1e-15)
        assert memory.everyone.tolist() == list(range(7))


def test_without_an_attack_the_adversarial_images_of_all_micro_batches_are_the_clean_ones():
    seen = []

    class Looking(TrainerHooks):
        def after_update(self, ctx):
            seen.append(
                (len(ctx.batch), ctx.x_adv is ctx.batch.x, ctx.logits_adv is ctx.logits_clean)
            )

    net, random = Net(smooth_network(10)), Randomness(0)
    looking = plugin("looking", trainer=lambda run: Looking())
    plan = plan_of(looking, net=net, num_classes=10, random=random, use={"attacker": "none"})
    step = step_of(
        net, plan, torch.optim.SGD(net.module.parameters(), lr=0.1), THREAT, random, accumulate=2
    )
    with seeded(0, "test"):
        step(tiny_batch(7, 10), 0, 0, 0.0)
    assert seen == [(7, True, True)]


def test_a_ball_may_have_a_radius_for_every_sample():
    """Radii of 0.1 and 0.2: one long step ends on the surface of each."""
    x, eps = torch.full((2, 1, 1, 2), 0.5), torch.tensor([0.1, 0.2])
    for norm, reached in (("Linf", [[0.6, 0.4], [0.7, 0.3]]), ("L2", [[0.58, 0.44], [0.66, 0.38]])):
        ball = Ball(x, Threat.parse(f"{norm}:1"), eps)
        direction = torch.tensor([0.8, -0.6]).expand(2, 1, 1, 2).clone()
        far = ball.climb(x.clone(), direction, 5 * eps)
        assert torch.allclose(far.flatten(1), torch.tensor(reached))
        assert ball.contains(far).all()
        assert not ball.contains(x + 0.21 * torch.tensor([1.0, 0.0])).any()
        start = ball.uniform_start(torch.full_like(x, 0.75), torch.tensor([0.0, 1.0]).expand_as(x))
        assert torch.allclose(
            ball.distance(start) / eps, torch.full((2,), 0.5 if norm == "Linf" else 0.75**0.5)
        )
