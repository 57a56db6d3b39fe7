"""Write docs/evidence.md and its plots from the records.

python -m benchmarks.paper_scale.page
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks.paper_scale.claims import CLAIMS, NOTHING, Row, evaluation_of, read_rows, seeds_of
from benchmarks.paper_scale.rows import ROWS
from markupsafe import Markup

from abatis.report import svg

ROOT = Path(__file__).parents[2]
PAGE, PICTURES = ROOT / "docs" / "evidence.md", ROOT / "docs" / "pictures"
STYLE = ROOT / "core" / "abatis" / "report" / "style.jinja"
PARTS = {
    "average-margin": "Average margin on MNIST, as released",
    "mnist-linf": "All of MNIST, Linf 0.3",
    "amm": "AMM on MNIST, as released",
    "cifar10-linf": "All of CIFAR-10, Linf 8/255",
}
WORDS = {
    "average-margin": (
        "The released trainings of Wu & Yu (recipes `average-margin/mnist-mlp-released` and "
        "`average-margin/mnist-linear-released`): 60,000 images, SGD with Nesterov's momentum, no "
        "augmentation. *Plain*: the cross-entropy; *constraint*: with the orthogonality penalty; "
        "*full*: with the paper's ramp too; *released*: with the ramp of the released head, which "
        "is 0 once all training images are right. Their exam is PGD in L2, 1,000 steps of 0.01 on "
        "the cross-entropy; beside it stands the robust accuracy of the standard ladder on the "
        "same 1,000 test images, all classes alike."
    ),
    "mnist-linf": (
        "One convolutional net of two strided convolutions with batch norm and 100 hidden units, "
        "59,000 training images, 10 epochs, PGD-10 with steps of 0.05, batch 128, no "
        "augmentation. The learning rate of every method is the best of the same three, tried for "
        "3 epochs on 9,000 images, by the accuracy on 1,000 held-out ones. Every other option has "
        "its default; what EMR, MAIL and GAIRAT do at epochs of 100 is done at the same shares of "
        "10. Judged by the standard ladder on 1,000 test images, all classes alike."
    ),
    "amm": (
        "The released training of Yan, Guo & Zhang (recipe `amm/mnist-released`): an MLP "
        "784-800-800-10, 60,000 images in fixed order; its twin has the weight 0. Judged on 1,000 "
        "test images, all classes alike."
    ),
    "cifar10-linf": (
        "ResNet-8, 10 epochs, PGD-3 with steps of 4/255, batch 128; every other option is as "
        "for MNIST. Judged by the standard ladder on 1,000 test images, all classes alike."
    ),
}
ACCURACIES = {"autoattack_acc": "AutoAttack", "robust_acc": "robust"}
HEAD = """# Evidence

What the papers behind our methods claim, and what we measured. Everything on this page was trained on all images of a published data set, on a CPU, and judged by our own evaluation. It is written from the records by `python -m benchmarks.paper_scale.page`; rows that were not run are listed as such.

Small networks on MNIST say little about wide networks on CIFAR-10 or ImageNet. *Seen* means: at this scale, with these seeds.
"""  # noqa: E501 - a paragraph is one line


def write_page() -> str:
    """Everything in Markdown; writes the plots."""
    lines = [HEAD, "## The claims", "", *list_claims(), ""]
    for part, title in PARTS.items():
        rows = read_rows(part)
        lines += [f"## {title}", "", WORDS[part], ""]
        if rows:
            lines += [*list_rows(part, rows), ""]
            lines += [
                line for name in draw(part, rows) for line in (f"![{name[1]}]({name[0]})", "")
            ]
        lines += [*list_missing(part, rows), ""]
        if rows:
            lines += [f"Record: [paper-{part}.json](../benchmarks/results/paper-{part}.json).", ""]
    return "\n".join(lines).rstrip() + "\n"


def list_claims() -> Iterator[str]:
    """One row a claim."""
    yield (
        "A difference between two methods is taken image by image on the same test images, for "
        "each seed, with its 95 % interval over these images. *Seen*: every seed's interval lies "
        "on the claim's side of 0. *Not seen*: every one lies on the other side. Else, or "
        "where a comparison has not run, the claim is *undecided at this scale*."
    )
    yield ""
    yield "| paper | claim | what decides | measured | here |"
    yield "|---|---|---|---|---|"
    for claim in CLAIMS:
        found = claim.decide(read_rows(claim.part))
        record = f"paper-{claim.part}.json"
        link = "" if found == NOTHING else f" ([record](../benchmarks/results/{record}))"
        yield (
            f"| {claim.paper} | {claim.text} | {claim.quantity} | {found.measured}{link} | "
            f"{found.word} |"
        )


def list_rows(part: str, rows: Mapping[str, Row]) -> Iterator[str]:
    """The table of one part, a line each method, means over its seeds."""
    exams = sorted({threat for row in rows.values() for threat in row["exam"]})
    threats = list(next(iter(rows.values()))["evaluations"])
    head = ["method", "seeds", "clean", *(f"their exam, {threat}" for threat in exams)]
    head += [f"{name}, {threat}" for threat in threats for name in ACCURACIES.values()]
    head += ["verdict", "logit margin", "L2 margin", "5 DeepFool steps", "rho_adv L2"]
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    for method in dict.fromkeys(row["method"] for row in rows.values()):
        seeds = seeds_of(rows, method)
        judged = [evaluation_of(row) for row in seeds.values()]
        cells = [method, ", ".join(map(str, sorted(seeds)))]
        cells.append(show([100 * one["clean_acc"] for one in judged]))
        cells += [show([100 * row["exam"][threat] for row in seeds.values()]) for threat in exams]
        cells += [
            show_accuracies([row["evaluations"][threat][name] for row in seeds.values()])
            for threat in threats
            for name in ACCURACIES
        ]
        cells.append(", ".join(dict.fromkeys(one["verdict"] for one in judged)))
        margins = [one["margins"] for one in judged]
        cells.append(show([one["measures"]["logit"]["mean"] for one in margins]))
        cells.append(show([one["measures"]["input_L2"]["mean"] for one in margins]))
        cells.append(show([one["deepfool5_L2"]["mean"] for one in margins]))
        cells.append(show([one["rho_adv_L2"] for one in margins], digits=3))
        yield f"| {' | '.join(cells)} |"
    yield ""
    yield (
        "Accuracies in percent, margins as means over the judged images (L2 in pixels of [0, 1], "
        "negative where the image is misclassified); mean and standard deviation where there are "
        "several seeds. Verdict: whether the attacks were misled (masking), by the standard "
        "ladder. Robust: what no attack of the ladder broke; none where the verdict is FAIL."
    )


def show_accuracies(values: list[float | None]) -> str:
    """In percent; none where one is None: its verdict is FAIL."""
    found = [100 * value for value in values if value is not None]
    return show(found) if len(found) == len(values) else "none"


def show(values: list[float], digits: int = 2) -> str:
    """Mean, and standard deviation of several."""
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


def list_missing(part: str, rows: Mapping[str, Row]) -> Iterator[str]:
    """What was planned and has not run."""
    absent = [
        f"{row.method}, seed {row.seed}"
        for row in ROWS
        if row.part == part and row.name not in rows
    ]
    if absent:
        yield f"Not run: {'; '.join(absent)}."


def draw(part: str, rows: Mapping[str, Row]) -> Iterator[tuple[str, str]]:
    """Write the plots of one part; yields the file as the page links it, and what it shows."""
    measured = {f"{row['method']}": row["history"] for row in rows.values() if row["history"]}
    for name, key, words in (
        ("mean", "input_mean_test", "mean L2 margin of 500 test images"),
        ("minimum", "input_min_train", "smallest L2 margin of 500 training images"),
    ):
        if measured:
            title = f"{words[0].upper()}{words[1:]} by epoch"
            curves = {
                method: [(float(one["epoch"]), one[key]) for one in history]
                for method, history in measured.items()
            }
            plot = svg.lines(curves, x_label="epoch", y_label="L2 margin", title=title)
            yield save(f"evidence-{part}-{name}.svg", plot), title
    if part == "mnist-linf":
        for row in (row for row in rows.values() if row["seed"] == 0):
            found = evaluation_of(row)["margins"]["histogram"]
            title = f"{row['method']}: logit margins of test images"
            counts = {name: found[name] for name in ("clean", "adversarial") if found[name]}
            plot = svg.histogram(
                found["edges"], counts, x_label="logit margin", title=title, mark=(0.0, "")
            )
            file = f"evidence-{row['method'].replace(' ', '-')}-histogram.svg"
            yield save(file.replace("(", "").replace(")", ""), plot), title


def save(name: str, plot: Markup) -> str:
    """Write a plot that needs no page around it; returns the link."""
    style = f"<style>{STYLE.read_text()} svg {{ background: var(--paper); }}</style>"
    text = str(plot).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    (PICTURES / name).write_text(text.replace("<title>", f"{style}<title>", 1) + "\n")
    return f"pictures/{name}"


if __name__ == "__main__":
    PAGE.write_text(write_page())
