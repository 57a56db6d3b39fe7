"""The table of all toys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from abatis.data.order import choose_stratified
from tests.evaluate.defences import (
    cheats,
    detectors,
    gradients,
    honest,
    losses,
    random_nets,
    transformed,
)
from tests.evaluate.defences.nets import Toy, read_images

POINTS = 96
Relabel = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Entry:
    """One toy.

    Args:
        make: returns it with the weights of a seed.
        family: of the page's table of symptoms; "honest" where nothing is broken.
        after: the paper, or what it is.
        points: how many test images it is judged on; None for all 360.
        relabel: from images and digits to other labels.
        unseen: is the truth that of images which it has not memorised?
    """

    make: Callable[[int], Toy]
    family: str
    after: str
    points: int | None = POINTS
    relabel: Relabel | None = None
    unseen: bool = False

    @property
    def broken(self) -> bool:
        return self.family != "honest"

    def choose_points(self) -> Tensor:
        """Return the positions in the test set, (n,) int64: those of ``defense eval --subset``."""
        _, _, x, y = read_images()
        labels = y if self.relabel is None else self.relabel(x, y)
        return choose_stratified(labels, self.points or len(labels))

    def get_points(self) -> tuple[Tensor, Tensor]:
        """Return the test images that it is judged on, and their labels."""
        _, _, x, y = read_images()
        labels, places = y if self.relabel is None else self.relabel(x, y), self.choose_points()
        return x[places], labels[places]


def halve_labels(x: Tensor, y: Tensor) -> Tensor:
    """Even or odd."""
    return y % 2


NO_GRADIENT = "no gradient"
ZERO = "zero or useless gradient"
SATURATED = "saturation of loss or logits"
RANDOM = "randomness"
DETECTOR = "detection and switching"
MEMORY = "memory of questions"
BATCH = "dependence on the batch"
POINT = "dependence on the point"
HONEST = "honest"

BROKEN = {
    "thermometer": Entry(transformed.get_thermometer, NO_GRADIENT, "Buckman et al., A18"),
    "bit_depth": Entry(transformed.get_bit_depth, ZERO, "Guo et al., A18"),
    "jpeg": Entry(transformed.get_jpeg, ZERO, "Guo et al., A18"),
    "total_variation": Entry(transformed.get_total_variation, NO_GRADIENT, "Guo et al., A18"),
    "quilting": Entry(transformed.get_quilting, NO_GRADIENT, "Guo et al., A18"),
    "dimensionality": Entry(detectors.get_dimensionality, DETECTOR, "Ma et al., A18"),
    "pruned": Entry(random_nets.get_pruned, RANDOM, "Dhillon et al., A18"),
    "resized": Entry(random_nets.get_resized, RANDOM, "Xie et al., A18"),
    "pixel_defend": Entry(transformed.get_pixel_defend, NO_GRADIENT, "Song et al., A18"),
    "defense_gan": Entry(transformed.get_defense_gan, NO_GRADIENT, "Samangouei et al., A18"),
    "single_step": Entry(losses.get_single_step, ZERO, "after Na et al., A18"),
    "winners": Entry(losses.get_winners, ZERO, "Xiao et al., T20"),
    "odds": Entry(detectors.get_odds, DETECTOR, "Roth et al., T20"),
    "generative": Entry(losses.get_generative, SATURATED, "after Li et al., T20"),
    "fourier": Entry(transformed.get_fourier, NO_GRADIENT, "Bafna et al., T20"),
    "centres": Entry(losses.get_centres, SATURATED, "Pang et al. (MMC), T20"),
    "codes": Entry(losses.get_codes, SATURATED, "Verma and Swami, T20"),
    "diverse": Entry(losses.get_diverse, SATURATED, "Pang et al. (ADP), T20"),
    "precisions": Entry(losses.get_precisions, ZERO, "Sen et al., T20"),
    "crop": Entry(detectors.get_crop, DETECTOR, "after Yang et al., T20"),
    "mixup": Entry(random_nets.get_mixup, RANDOM, "Pang et al. (mixup inference), T20"),
    "menet": Entry(random_nets.get_menet, NO_GRADIENT, "Yang et al. (ME-Net), T20"),
    "asymmetric": Entry(detectors.get_asymmetric, DETECTOR, "Yin et al., T20"),
    "weakness": Entry(detectors.get_weakness, DETECTOR, "Hu et al., T20"),
    "distilled": Entry(losses.get_distilled, SATURATED, "Papernot et al. 2016"),
    "times_1000": Entry(losses.get_times_1000, SATURATED, "logits x1000"),
    "times_1e_4": Entry(losses.get_times_1e_4, SATURATED, "logits x1e-4"),
    "half_probabilities": Entry(losses.get_half_probabilities, SATURATED, "float16 softmax"),
    "saturated": Entry(losses.get_saturated, SATURATED, "softmax of large logits"),
    "ripples": Entry(gradients.get_ripples, ZERO, "a fast sine on the image"),
    "reversed": Entry(gradients.get_reversed, ZERO, "gradient reversed"),
    "scrambled": Entry(gradients.get_scrambled, ZERO, "gradients of other pixels"),
    "decoy": Entry(gradients.get_decoy, ZERO, "hard label over a decoy"),
    "decoy_robust": Entry(gradients.get_decoy_robust, ZERO, "the same, half robust"),
    "grad_switch": Entry(gradients.get_grad_switch, ZERO, "answers by the grad mode"),
    "input_switch": Entry(gradients.get_input_switch, ZERO, "answers by requires_grad"),
    "loader_rounding": Entry(gradients.get_loader_rounding, ZERO, "rounds to 255 levels"),
    "detached": Entry(transformed.get_detached, NO_GRADIENT, "detach() by mistake"),
    "noise": Entry(random_nets.get_noise, RANDOM, "noise on the image"),
    "random_choice": Entry(random_nets.get_random_choice, RANDOM, "one of three networks"),
    "autoencoder": Entry(detectors.get_autoencoder, DETECTOR, "after Meng and Chen 2017"),
    "cache_attribute": Entry(cheats.get_cache_attribute, MEMORY, "cache in an attribute"),
    "cache_module": Entry(cheats.get_cache_module, MEMORY, "cache in a module's global"),
    "cache_file": Entry(cheats.get_cache_file, MEMORY, "cache in a temporary file"),
    "cache_own_file": Entry(cheats.get_cache_own_file, MEMORY, "cache in a file of its own"),
    "cache_buffers": Entry(cheats.get_cache_buffers, MEMORY, "cache in buffers"),
    "counting": Entry(cheats.get_counting, MEMORY, "honest until counted"),
    "batch_position": Entry(cheats.get_batch_position, BATCH, "honest to the first image"),
    "batch_size": Entry(cheats.get_batch_size, BATCH, "honest to small batches"),
    "memorised": Entry(cheats.get_memorised, POINT, "memorised test set", unseen=True),
    "part_memorised": Entry(
        cheats.get_part_memorised, POINT, "memorised outside of 256 points", None, unseen=True
    ),
    "part_hidden": Entry(cheats.get_part_hidden, POINT, "hides outside of 256 points", None),
}
"""Broken defences. A18 and T20: broken by Athalye et al. (2018), by Tramer et al. (2020)."""

HONEST_ONES = {
    "cnn": Entry(honest.get_cnn, HONEST, "plain CNN"),
    "mlp": Entry(honest.get_mlp, HONEST, "one hidden layer"),
    "softplus": Entry(honest.get_softplus, HONEST, "softplus MLP"),
    "gelu": Entry(honest.get_gelu, HONEST, "GELU CNN"),
    "vit": Entry(honest.get_vit, HONEST, "small vision transformer"),
    "warm": Entry(honest.get_warm, HONEST, "logits x0.1"),
    "cold": Entry(honest.get_cold, HONEST, "logits x3"),
    "weak": Entry(honest.get_weak, HONEST, "linear, 16 inputs"),
    "accurate": Entry(honest.get_accurate, HONEST, "batch norm, augmented"),
    "robust_cnn": Entry(honest.get_robust_cnn, HONEST, "CNN, adversarial training"),
    "robust_mlp": Entry(honest.get_robust_mlp, HONEST, "MLP, adversarial training"),
    "robust_vit": Entry(honest.get_robust_vit, HONEST, "transformer, adversarial training"),
    "robust_half": Entry(honest.get_robust_half, HONEST, "CNN, trained at half the radius"),
    "bfloat16": Entry(honest.get_bfloat16, HONEST, "computes in bfloat16"),
    "implicit": Entry(honest.get_implicit, HONEST, "gradient steps inside the forward"),
    "ensemble": Entry(honest.get_ensemble, HONEST, "mean of three CNNs"),
    "overtrained": Entry(honest.get_overtrained, HONEST, "MLP, 200 epochs"),
    "dropout": Entry(honest.get_dropout, HONEST, "trained with dropout"),
    "two_class": Entry(honest.get_two_class, HONEST, "2 classes", relabel=halve_labels),
    "many_classes": Entry(
        honest.get_many_classes, HONEST, "90 classes", relabel=honest.split_classes
    ),
    "many_outputs": Entry(honest.get_many_outputs, HONEST, "1,000 outputs"),
    "few_points": Entry(honest.get_cnn, HONEST, "plain CNN, 40 points", 40),
}

TOYS = BROKEN | HONEST_ONES


def get_toy(name: str, seed: int = 0) -> Toy:
    """Return a toy, ready to be asked."""
    with torch.random.fork_rng(devices=[]):
        return TOYS[name].make(seed)
