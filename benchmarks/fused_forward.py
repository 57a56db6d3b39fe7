"""What forwards without a gradient, like Square's queries, would gain from fused convolutions.

    python -m benchmarks.fused_forward     # two minutes of one core; needs ABATIS_REFERENCE

Beside the forward that attacks use (norms folded, channels_last): the same network with each
convolution's weights packed for oneDNN, and the sum and the ReLU behind it computed in the same
kernel. Interleaved in one process, random weights but for resnet2b. Nothing outside of this file
uses it. Writes benchmarks/results/fused-forward.json and .md.
"""

from __future__ import annotations

import operator
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from benchmarks.known_networks import known
from benchmarks.record_files import list_versions, write_record
from benchmarks.side_by_side import Variant, facts, measure, ratio
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from abatis.nets.backbones.cifar_resnet import cifar_resnet8, cifar_resnet18
from abatis.nets.net import Net

RECORD = Path(__file__).parent / "results" / "fused-forward.json"
ROUNDS, SHORTEST = 7, 0.2
BATCHES = {"resnet8": (4, 8, 16, 64), "resnet2b": (4, 8, 16, 64), "resnet18": (4, 16)}
GOAL = 0.9  # on both small networks, at each batch size


class Fused(nn.Module):
    """A convolution, then ``+ other`` where there is one, then a ReLU where asked."""

    def __init__(self, conv: nn.Conv2d, shape: torch.Size, relu: bool) -> None:
        super().__init__()
        sides = (conv.padding, conv.stride, conv.dilation)
        self.where = (*(list(side) for side in sides), conv.groups)
        pack = torch.ops.mkldnn._reorder_convolution_weight
        self.weight = pack(conv.weight.detach(), *self.where, list(shape))
        self.bias, self.relu = conv.bias, "relu" if relu else None

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        run = torch.ops.mkldnn._convolution_pointwise
        if other is None:
            out: Tensor = run(x, self.weight, self.bias, *self.where, self.relu or "none", [], "")
            return out
        out = run.binary(
            x, other, self.weight, self.bias, *self.where, "add", 1.0, self.relu, [], None
        )
        return out


def fuse(module: nn.Module, x: Tensor) -> fx.GraphModule:
    """The network with fused convolutions, for images of the shape of ``x``."""
    traced = fx.symbolic_trace(module)
    ShapeProp(traced).propagate(x)
    parts, graph = dict(traced.named_modules()), traced.graph
    for node in list(graph.nodes):
        if node.op == "call_module" and type(parts[node.target]) is nn.Identity:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    for number, node in enumerate(list(graph.nodes)):
        if node.op != "call_module" or type(parts[node.target]) is not nn.Conv2d:
            continue
        replaced, read = [node], list(node.args)
        reader = _find_only_reader(node)
        if reader is not None and reader.target in (operator.add, operator.iadd):
            other = next(one for one in reader.args if one is not node)
            if other < node:  # computed before
                read.append(other)
                replaced.append(reader)
                reader = _find_only_reader(reader)
        relu = reader is not None and _is_relu(reader, parts)
        replaced += [reader] if relu else []
        shape = node.args[0].meta["tensor_meta"].shape
        traced.add_module(f"fused{number}", Fused(parts[node.target], shape, relu))
        last = replaced[-1]
        with graph.inserting_before(last):
            new = graph.call_module(f"fused{number}", tuple(read))
        new.meta = last.meta
        last.replace_all_uses_with(new)
        for old in reversed(replaced):
            graph.erase_node(old)
    traced.recompile()
    return traced


def _find_only_reader(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _is_relu(node: fx.Node, parts: Mapping[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return type(parts[str(node.target)]) is nn.ReLU
    return node.target in (F.relu, torch.relu)


@torch.no_grad()
def compare(name: str, module: nn.Module) -> list[dict[str, Any]]:
    """A row for each batch size."""
    net, rows = Net(module.eval()), []
    net.tune(torch.rand(8, 3, 32, 32))
    with net.attack_mode():
        for batch in BATCHES[name]:
            x = torch.rand(batch, 3, 32, 32)
            last = x.contiguous(memory_format=torch.channels_last)
            fused = fuse(module, last)
            variants = {
                "plain": Variant(lambda x=x: net(x), lambda: None),
                "fused": Variant(
                    lambda x=x, run=fused: run(x.contiguous(memory_format=torch.channels_last)),
                    lambda: None,
                ),
            }
            plain = net(x)
            moved = (fused(last) - plain).abs().max() / plain.abs().max()
            times = measure(variants, ROUNDS, shortest=SHORTEST)
            each = {one: 1000 * statistics.median(found) / batch for one, found in times.items()}
            rows.append(
                {
                    "network": name,
                    "batch": batch,
                    "ms_an_image": {one: round(found, 3) for one, found in each.items()},
                    "ratio": round(ratio(times, "fused", "plain"), 3),
                    "ratios": [
                        round(new / old, 3)
                        for new, old in zip(times["fused"], times["plain"], strict=True)
                    ],
                    "logits_differ": float(f"{float(moved):.1e}"),
                }
            )
            print(rows[-1], flush=True)
    return rows


def page(record: dict[str, Any]) -> str:
    """Markdown."""
    lines = [
        "# Fused convolutions in forwards without a gradient",
        "",
        f"{record['date']}, {record['machine']}, {record['threads']} thread(s), "
        f"{list_versions(record)}. CPU time, medians of {record['rounds']} rounds in one process, "
        "in turn; a ratio is the median of those within the rounds. The machine was also doing "
        "other work.",
        "",
        "| network | batch | ms an image, plain | fused | ratio | lowest and highest | largest "
        "change of a logit |",
        "|---" * 7 + "|",
    ]
    for row in record["rows"]:
        each, ratios = row["ms_an_image"], row["ratios"]
        lines.append(
            f"| {row['network']} | {row['batch']} | {each['plain']} | {each['fused']} "
            f"| {row['ratio']:.2f} | {min(ratios):.2f} to {max(ratios):.2f} "
            f"| {row['logits_differ']:.0e} |"
        )
    small = [row for row in record["rows"] if row["network"] != "resnet18"]
    reached = sum(row["ratio"] <= GOAL for row in small)
    return "\n".join(
        [
            *lines,
            "",
            f"Goal on ResNet-8 and resnet2b: at most {GOAL}. It is reached in {reached} of "
            f"{len(small)} rows. Changes are relative to the largest logit.",
            "",
        ]
    )


def main() -> None:
    """Measure and write."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    networks = {
        "resnet8": cifar_resnet8(),
        "resnet2b": known("resnet2b"),
        "resnet18": cifar_resnet18(),
    }
    record = facts("abatis", "torch") | {
        "rounds": ROUNDS,
        "goal": GOAL,
        "rows": [row for name, module in networks.items() for row in compare(name, module)],
    }
    write_record(RECORD, record, page(record))


if __name__ == "__main__":
    main()
