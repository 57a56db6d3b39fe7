"""Runs the attacks that were asked for beside the ladder, and says in words where they fail."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from abatis.api.batch import Batch
from abatis.api.randomness import seeded
from abatis.api.threat import Threat
from abatis.errors import UsageError, summarise_error
from abatis.evaluate.also.attack import AlsoAttack, MakeImages
from abatis.evaluate.finished_attacks import FinishedAttacks
from abatis.evaluate.judge import Attack, Clean, Judge, Verdicts, find_correct
from abatis.evaluate.stranger.watch import fingerprint_functions, list_replaced
from abatis.nets.copying import copy_module


class AttackFailed(Exception):
    """An attack raised an exception, or returned what are no images; the text says what."""


class _Unfinished(Exception):
    """The verdicts of an attack that failed on some images; they are not kept."""

    def __init__(self, verdicts: Verdicts) -> None:
        super().__init__()
        self.verdicts = verdicts


def try_attacks(
    attacks: Sequence[AlsoAttack], module: nn.Module, threat: Threat, x: Tensor
) -> None:
    """Run every attack on a few images, before hours of others.

    Args:
        attacks: those of ``--also``.
        module: the network; they get copies of it.
        threat: norm and radius.
        x: images, (B, C, H, W).

    Raises:
        UsageError: one fails.
    """
    for attack in attacks:
        copy = copy_module(module).eval().requires_grad_(False)
        with torch.no_grad():
            y = copy(x).argmax(1)
        try:
            _make_images(_make(attack, copy, threat), x.clone(), y)
        except AttackFailed as error:
            raise UsageError(
                f"{attack.title} fails on {len(x)} images: {error}",
                fix="repair it, or leave it out",
            ) from error


def run_also(
    attacks: Sequence[AlsoAttack], judge: Judge, clean: Clean, seed: int, finished: FinishedAttacks
) -> tuple[dict[str, Verdicts], dict[str, dict[str, object]], list[str]]:
    """Run the attacks on all points that are right without one.

    Args:
        attacks: those of ``--also``.
        judge: of the points.
        clean: results on the clean images.
        seed: of their draws.
        finished: attacks that need not run again.

    Returns:
        Verdicts and settings by the attack's title, and findings where one failed.

    Raises:
        UsageError: one replaced a function that decides about verdicts.
    """
    verdicts: dict[str, Verdicts] = {}
    settings: dict[str, dict[str, object]] = {}
    findings = []
    for attack in attacks:
        title = attack.title
        settings[title] = {"loss": "not ours", "version": attack.version, "seed": seed}
        failures: list[str] = []
        before = fingerprint_functions()
        try:
            verdicts[title] = finished.get_or_run(
                title,
                lambda attack=attack, failures=failures: _run(  # type: ignore[misc]
                    attack, judge, clean, seed, failures
                ),
                settings[title],
                clean.correct,
            )
        except _Unfinished as found:
            verdicts[title] = found.verdicts
            findings.append(
                f"{title} failed in {len(failures)} batches, whose images count as not broken by "
                f"it: {failures[0]}"
            )
        if replaced := list_replaced(before, fingerprint_functions()):
            raise UsageError(
                f"{title} replaced {', '.join(replaced)}: no number after it could be trusted",
                fix="leave it out, or repair it; finished attacks are kept",
            )
    return verdicts, settings, findings


def _run(
    attack: AlsoAttack, judge: Judge, clean: Clean, seed: int, failures: list[str]
) -> Verdicts:
    verdicts = judge.run_attack(attack.title, _adapt(attack, judge, seed, failures), clean.correct)
    if failures:
        raise _Unfinished(verdicts)
    return verdicts


def _adapt(attack: AlsoAttack, judge: Judge, seed: int, failures: list[str]) -> Attack:
    """Where it fails, the clean images are returned, and nothing is claimed."""
    copy = copy_module(judge.net.module).eval().requires_grad_(False)

    def run(batch: Batch) -> tuple[Tensor, Tensor]:
        try:
            with seeded(seed, attack.title, int(batch.index[0])):
                make = _make(attack, copy, judge.threat)
                images = _make_images(make, batch.x.clone(), batch.y.clone())
        except AttackFailed as error:
            failures.append(str(error))
            return batch.x, torch.zeros_like(batch.y, dtype=torch.bool)
        with torch.no_grad():
            return images, ~find_correct(judge.net(images), batch.y)

    return run


def _make(attack: AlsoAttack, copy: nn.Module, threat: Threat) -> MakeImages:
    try:
        return attack.make(copy, threat)
    except torch.OutOfMemoryError:
        raise
    except (Exception, SystemExit) as error:
        raise AttackFailed(summarise_error(error)) from error


def _make_images(make: MakeImages, x: Tensor, y: Tensor) -> Tensor:
    """The images of an attack, (B, C, H, W); raises AttackFailed where it gives none."""
    like = torch.empty_like(x)
    try:
        with torch.enable_grad():
            images: object = make(x, y)
    except torch.OutOfMemoryError:
        raise
    except (Exception, SystemExit) as error:  # strangers' code raises whatever it likes
        raise AttackFailed(summarise_error(error)) from error
    if not isinstance(images, Tensor) or images.shape != like.shape:
        shape = f" {tuple(images.shape)}" if isinstance(images, Tensor) else ""
        raise AttackFailed(
            f"it returned a {type(images).__name__}{shape}, not images {tuple(like.shape)}"
        )
    return images.detach().to(like)
