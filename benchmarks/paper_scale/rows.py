"""The rows: what is trained, with which options, and how much it is worth to have it.

Rows stand in the order in which they are run. A row is a run of ``defense-run`` with these
arguments; its name is that of its run folder.
"""

from __future__ import annotations

from dataclasses import dataclass

CLEAN = ("--use", "attacker=none")
CONSTRAINT = ("--average-margin.weight", "0", "--optim.lr", "0.01")
PLAIN = (*CONSTRAINT, "--average-margin.orthogonality", "0")
PAPER = ("--average-margin.ramp", "paper")
ARMS = {"plain": PLAIN, "constraint": CONSTRAINT, "full": PAPER, "released": ()}


@dataclass(frozen=True)
class Row:
    """One training.

    Attributes:
        part: the experiment; its record is ``benchmarks/results/paper-PART.json``.
        method: the arm or method.
        seed: of the run.
        args: of ``defense-run``, besides seed and folder.
        history: measure the margins at the ends of epochs.
        trials: arguments of which the best is taken, by the accuracy on held-out images (robust,
            then clean) after a brief training.
    """

    part: str
    method: str
    seed: int
    args: tuple[str, ...]
    history: bool = False
    trials: tuple[tuple[str, ...], ...] = ()

    @property
    def name(self) -> str:
        """That of the run folder."""
        return f"{self.part}-{self.method}-{self.seed}".replace(" ", "-")


def list_average_margin() -> list[Row]:
    """MNIST as in the released code of Wu & Yu: a perceptron and the linear net."""
    mlp = ("--recipe", "average-margin/mnist-mlp-released")
    linear = ("--recipe", "average-margin/mnist-linear-released")
    first = [
        Row("average-margin", f"mlp {arm}", 0, (*mlp, *ARMS[arm]), history=True)
        for arm in ("plain", "full", "constraint")
    ] + [
        Row("average-margin", f"linear {arm}", 0, (*linear, *ARMS[arm]), history=True)
        for arm in ("plain", "full", "constraint")
    ]
    more = [
        Row("average-margin", f"mlp {arm}", seed, (*mlp, *ARMS[arm]))
        for seed in (1, 2)
        for arm in ("plain", "full", "constraint")
    ]
    return [*first, *more, Row("average-margin", "mlp released", 0, (*mlp, *ARMS["released"]))]


NET = "benchmarks/paper_scale/small_net.py"  # from the repository's folder
LINF = (
    *("--data", "mnist", "--backbone", f"{NET}:make", "--threat", "Linf:0.3", "--epochs", "10"),
    *("--batch-size", "128", "--augment", "none", "--attack.steps", "10"),
    *("--attack.step-size", "0.05", "--optim.schedule", "one-cycle"),
)
MAIL = ("--plugin", "mail", "--mail.begin-at", "0.75")
DECAY = ("--emr.decay-at", "0.6,0.9")
"""The published epochs of 100, as shares: these trainings end before."""
TRIALS = tuple(("--optim.lr", rate) for rate in ("0.05", "0.1", "0.2"))
BRIEF = ("--limit", "10000", "--epochs", "3")
LINF_METHODS: dict[str, tuple[str, ...]] = {
    "at": (),
    "emr": ("--plugin", "emr", *DECAY),  # weight 3, of the squares' sum over N^2, as released
    "sovr": ("--plugin", "sovr"),
    "mart": ("--plugin", "mart"),
    "mail+trades": (*MAIL, "--plugin", "trades"),
    "trades": ("--plugin", "trades"),
    "mart+emr": ("--plugin", "mart", "--plugin", "emr", *DECAY),
    "gairat": ("--plugin", "gairat", "--gairat.begin-at", "0.6"),
    "awp": ("--plugin", "awp"),
    "input-gradient": ("--plugin", "input-gradient"),
    "average-margin (clean)": ("--plugin", "average-margin", *CLEAN),
    "amm (clean)": ("--plugin", "amm", *CLEAN),
    "standard": CLEAN,
    "emr weight 1": ("--plugin", "emr", *DECAY, "--emr.weight", "1"),
    "emr weight 10": ("--plugin", "emr", *DECAY, "--emr.weight", "10"),
}
SECOND = ("at", "emr", "sovr", "mart", "mail+trades")  # of which three seeds are wanted


def list_linf() -> list[Row]:
    """All of MNIST, Linf 0.3, one small convolutional net, the same budget for every method."""
    runs = [(method, 0) for method in LINF_METHODS]
    runs += [(method, seed) for seed in (1, 2) for method in SECOND]
    return [
        Row("mnist-linf", method, seed, (*LINF, *LINF_METHODS[method]), trials=TRIALS)
        for method, seed in runs
    ]


CIFAR = (
    *("--data", "cifar10", "--backbone", "resnet8", "--threat", "Linf:8/255", "--epochs", "10"),
    *("--batch-size", "128", "--attack.steps", "3", "--attack.step-size", "4/255"),
    *("--optim.schedule", "one-cycle"),
)


def list_cifar() -> list[Row]:
    """All of CIFAR-10, Linf 8/255, ResNet-8."""
    return [
        Row("cifar10-linf", method, seed, (*CIFAR, *LINF_METHODS[method]))
        for seed in (0, 1)
        for method in ("at", "emr", "sovr", "mail+trades", "trades")
    ]


def list_amm() -> list[Row]:
    """MNIST as in the released code of Yan, Guo & Zhang."""
    recipe = ("--recipe", "amm/mnist-released")
    twin = (*recipe, "--amm.weight", "0")
    return [
        Row("amm", "twin", 0, twin),
        Row("amm", "amm", 0, recipe),
        Row("amm", "twin 30 epochs", 1, (*twin, "--epochs", "30")),
        Row("amm", "amm 30 epochs", 1, (*recipe, "--epochs", "30")),
        Row("amm", "twin 30 epochs", 2, (*twin, "--epochs", "30")),
        Row("amm", "amm 30 epochs", 2, (*recipe, "--epochs", "30")),
    ]


ROWS = [*list_average_margin(), *list_linf(), *list_amm(), *list_cifar()]
