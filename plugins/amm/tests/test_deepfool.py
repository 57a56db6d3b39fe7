"""The perturbation against the released code, linear models by hand, and who is computed at all."""

from __future__ import annotations

import pytest
import torch
from tests.golden import golden
from torch import nn

from abatis import Net
from abatis_amm import AmmConfig
from abatis_amm.deepfool import DeepFool, size

EXACT = 1e-15  # epsilon of the norm, where a test wants the textbook's formula


def linear(weight, bias):
    layer = nn.Linear(len(weight[0]), len(weight), dtype=torch.float64)
    layer.weight.data, layer.bias.data = (
        torch.as_tensor(values, dtype=torch.float64) for values in (weight, bias)
    )
    return nn.Sequential(nn.Flatten(), layer)


def multilayer(arrays, names, activation):
    layers = [nn.Flatten()]
    for weight, bias in names:
        layers += [*linear(arrays[weight], arrays[bias])[1:], activation()]
    return nn.Sequential(*layers[:-1])


def official(arrays):
    return multilayer(
        arrays, [(f"param_fc{i}.weight", f"param_fc{i}.bias") for i in (1, 2, 3)], nn.ReLU
    )


def perturb(model, x, toward=None, graph=False, **options):
    return DeepFool(Net(model), AmmConfig(**options))(x, model(x).detach(), toward, graph)


def images(rows):
    return torch.as_tensor(rows, dtype=torch.float64)[:, None, None]


def test_by_hand_in_both_norms():
    """z = (3 a + 4 b, 0) at (1, 1): gap 7, gradient (3, 4), so 7/5 along (3, 4)/5, or 7/7 along the
    signs.
    """
    model, x = linear([[3, 4], [0, 0]], [0, 0]), images([[1, 1]])
    for norm, expected in (("L2", [-0.84, -1.12]), ("Linf", [-1.0, -1.0])):
        r, arrived = perturb(model, x, norm=norm, epsilon=EXACT)
        assert r.flatten().tolist() == pytest.approx(
            [1.02 * value for value in expected], rel=1e-12
        )
        assert arrived.tolist() == [True]


def test_the_nearest_boundary_is_not_that_of_the_second_logit():
    """At 0: class 1 lacks 1 with slope 1, class 2 lacks 2 with slope 4. Two candidates see only
    class 1.
    """
    model, x = linear([[0, 0], [1, 0], [0, 4]], [2, 1, 0]), images([[0, 0]])
    assert perturb(model, x, epsilon=EXACT)[0].flatten().tolist() == pytest.approx([0, 0.51])
    assert perturb(model, x, epsilon=EXACT, candidates=2)[0].flatten().tolist() == pytest.approx(
        [1.02, 0]
    )


def test_towards_a_class():
    """From class 0 to class 2, whatever lies nearer."""
    model, x = linear([[0, 0], [4, 0], [0, 1]], [2, 1, 0]), images([[0, 0]])
    r, arrived = perturb(model, x, toward=torch.tensor([2]), epsilon=EXACT)
    assert r.flatten().tolist() == pytest.approx([0, 2.04])
    assert arrived.tolist() == [True]


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize(
    ("norm", "epsilon", "key"),
    [
        ("L2", 1e-5, "amm_r_eps1e-05"),
        ("L2", 5e-6, "amm_r_eps5e-06"),
        ("L2", EXACT, "df_l2_r"),
        ("Linf", EXACT, "df_linf_r"),
    ],
)
def test_on_a_linear_model_it_is_the_released_code_and_the_exact_margin(norm, epsilon, key, graph):
    arrays = golden("amm_deepfool_linear")
    r, arrived = perturb(
        linear(arrays["W"], arrays["b"]),
        torch.tensor(arrays["x"]),
        graph=graph,
        norm=norm,
        epsilon=epsilon,
    )
    assert arrived.all()
    assert (r.flatten(1) - torch.tensor(arrays[key])).abs().max() <= 1e-13
    exact = torch.tensor(arrays["exact_linf" if norm == "Linf" else "exact_l2"])
    assert torch.allclose(
        size(r, norm) / 1.02, exact, rtol=0, atol=1e-12 if epsilon == EXACT else 1e-5
    )


@pytest.mark.parametrize(("norm", "key"), [("L2", "df_l2"), ("Linf", "df_linf")])
def test_on_a_relu_network_one_step_is_deepfool_s(norm, key):
    """Later steps differ: here each carries the overshoot, there it comes at the end."""
    arrays = golden("amm_deepfool_mlp")
    model = multilayer(arrays, [("W1", "b1"), ("W2", "b2")], nn.ReLU)
    r, arrived = perturb(model, torch.tensor(arrays["x"]), norm=norm, epsilon=EXACT, iterations=50)
    one_step = torch.tensor(arrays[f"{key}_iters"]) == 1
    assert arrived.all()
    assert one_step.sum() >= 10
    assert (r.flatten(1) - torch.tensor(arrays[f"{key}_r"]))[one_step].abs().max() <= 1e-13
    assert torch.allclose(size(r, norm), torch.tensor(arrays[f"{key}_norm"]), rtol=0.05)


@pytest.mark.parametrize("graph", [False, True])
def test_on_a_relu_network_it_is_the_released_code(graph):
    arrays = golden("amm_official_relu")
    model, x, y = official(arrays), torch.tensor(arrays["x"]), torch.tensor(arrays["y"])
    for name, toward in (("pos", None), ("neg", y)):
        rows = torch.tensor(arrays[f"{name}_index"])
        r, arrived = perturb(
            model, x[rows], None if toward is None else y[rows], graph, epsilon=5e-6
        )
        assert (r - torch.tensor(arrays[f"{name}_r_train"])).abs().max() <= 1e-12
        assert torch.equal(~arrived, torch.tensor(arrays[f"{name}_not_done"]))
    assert size(perturb(model, x, epsilon=5e-6)[0], "L2").mean().item() == pytest.approx(
        0.160004387, abs=1e-9
    )
    rows = torch.tensor(arrays["pos_index"])
    r, _ = perturb(model, x[rows], graph=graph, epsilon=5e-6, candidates=3, iterations=1)
    assert (r - torch.tensor(arrays["pos_r_top3_iter1"])).abs().max() <= 1e-12


def test_finished_rows_are_not_computed_again():
    """Of 30 samples 8 need a second step: the gradients are taken of 30 and 8 rows, and of these
    alone.
    """
    arrays = golden("amm_official_relu")
    model, seen = official(arrays), []
    rows = torch.tensor(arrays["pos_index"])
    x, net = torch.tensor(arrays["x"])[rows], Net(model)
    logits = model(x).detach()
    model.register_forward_hook(
        lambda module, given, result: seen.append((len(given[0]), given[0].requires_grad))
    )
    DeepFool(net, AmmConfig(epsilon=5e-6))(x, logits, None, True)
    waiting = torch.tensor(arrays["pos_trace_not_done_before"]).sum(1).tolist()
    assert [rows for rows, differentiated in seen if differentiated] == waiting == [30, 8]
    assert [rows for rows, differentiated in seen if not differentiated] == waiting


def curved():
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def plain(model, x, through_previous, steps=3, epsilon=1e-5):
    """One sample, two forwards a step: a gradient at the fixed point, a gap at the point that
    remembers its past.
    """
    point, start = x, int(model(x).argmax())
    for _ in range(steps):
        leaf = point.detach().requires_grad_()
        gradients = [
            torch.autograd.grad(logit, leaf, create_graph=True)[0] for logit in model(leaf)[0]
        ]
        logits = model(point)[0]
        if int(logits.argmax()) != start:
            break
        ways = []
        for k in {0, 1, 2} - {start}:
            w = gradients[k] - gradients[start]
            length = (w + epsilon).square().sum().sqrt()
            distance = (logits[k] - logits[start]).abs() / length
            ways.append((distance.item(), 1.02 * distance * w / length))
        step = min(ways, key=lambda way: way[0])[1]
        point = point + step if through_previous else (point + step).detach()
        x = x + step
    return x


@pytest.mark.parametrize("through_previous", [True, False])
def test_gradients_on_a_network_with_curvature(through_previous):
    """Second derivatives tell a cut path from a kept one; some samples need two or three steps."""
    model = curved()
    x = (
        torch.rand(8, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) * 4
        - 2
    )
    r, _ = perturb(model, x, graph=True, iterations=3, backprop_previous=through_previous)
    for row in range(8):
        expected = plain(model, x[row : row + 1], through_previous) - x[row : row + 1]
        assert torch.allclose(r[row], expected[0], rtol=0, atol=1e-13)
        for ours, theirs in zip(
            torch.autograd.grad(
                r[row].square().sum(), model.parameters(), retain_graph=True, allow_unused=True
            ),
            torch.autograd.grad(expected.square().sum(), model.parameters(), allow_unused=True),
            strict=True,
        ):
            assert ours is theirs is None or torch.allclose(ours, theirs, rtol=1e-11, atol=1e-13)


def test_a_flat_network_moves_nobody_and_stays_finite():
    model = linear([[0, 0], [0, 0]], [1, 0])
    r, arrived = perturb(model, images([[1, 1]]), graph=True)
    assert r.abs().max() == 0
    assert not arrived.any()
    gradients = torch.autograd.grad(size(r, "L2").sum(), model.parameters(), allow_unused=True)
    assert all(part.isfinite().all() for part in gradients if part is not None)
