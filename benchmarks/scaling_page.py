"""The record of scaling.py as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.record_files import list_versions

SHARDS = ("none", "root", "blocks")


def page(record: Mapping[str, Any]) -> str:
    """What was measured, what was assumed, what follows."""
    found, versions = record["measured"], list_versions(record)
    whole = 4 * found["parameters"]
    return (
        f"# What several processes exchange\n\n{record['date']}, {record['machine']}, {versions}. "
        "Nothing of this has run on a GPU.\n\n"
        f"## Measured\n\nOne training step of a {found['network']} with {found['parameters']:,} "
        "parameters (float32, "
        f"{whole:,} bytes) in {found['processes']} gloo processes on the CPU, batch "
        f"{found['batch']}. Bytes are those of the "
        "whole tensors; in a ring of n processes each sends 2 (n-1)/n of them for all-reduce, "
        "(n-1)/n for the others.\n\n"
        "| shard | method | exchange | calls | bytes | in gradients |\n|---|---|---|---|---|---|\n"
        + "".join(
            f"| {row['shard']} | {row['method']} | {kind} | {told['calls']} | {told['bytes']:,} | "
            f"{told['bytes'] / whole:.3f} |\n"
            for row in found["rows"]
            for kind, told in row["exchanged"].items()
        )
        + "\n## Assumed\n\n| what | value |\n|---|---|\n"
        + "".join(
            f"| {name.replace('_', ' ')} | {value:g} |\n"
            for name, value in record["assumed"].items()
        )
        + "".join(table(name, record) for name in record["networks"])
    )


def table(name: str, record: Mapping[str, Any]) -> str:
    """One network: the counts, and a row for each number of GPUs."""
    network = record["networks"][name]
    rows = [row for row in record["computed"] if row["network"] == name]
    head = [f"MB sent, {shard}" for shard in SHARDS]
    head += [f"{scale}, {shard}" for scale in ("weak", "strong") for shard in SHARDS]
    lines = [f"| GPUs | {' | '.join(head)} |", f"|{'---|' * (len(head) + 1)}"]
    for row in rows:
        sent = [f"{row[f'sent_mb_{shard}']:,.0f}" for shard in SHARDS]
        shares = [
            f"{row[f'{scale}_{shard}']:.1%}".replace("%", " %")
            for scale in ("weak", "strong")
            for shard in SHARDS
        ]
        lines.append(f"| {row['gpus']:,} | {' | '.join(sent + shares)} |")
    return (
        f"\n## Computed: {name}\n\nCounted: {network['parameters']:,} parameters, "
        f"{network['forward_flop'] / 1e9:.1f} GFLOP a "
        f"forward pass of one image of {network['image_size']} pixels. Weak: "
        f"{network['images_per_gpu']} images a GPU; strong: "
        f"{network['global_batch']:,} images in all. Efficiency: the share of a step that is spent "
        "computing. MB: sent by each "
        f"GPU in a step.\n\n" + "\n".join(lines) + "\n"
    )
