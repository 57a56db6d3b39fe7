"""Whether the terms that a plugin returned can be trained on."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from abatis.api.context import StepContext
from abatis.api.term import Term, Terms
from abatis.errors import PluginError

RETURN_TERMS = 'return {"name": Term(value)}'


def check_terms(terms: Terms, ctx: StepContext, plugin: str) -> None:
    """Raise PluginError where a term has no legal type, shape or weight."""
    if not isinstance(terms, Mapping) or not terms:
        raise PluginError(
            f"plugin '{plugin}' returned {type(terms).__name__} instead of named terms",
            fix=RETURN_TERMS,
        )
    for name, term in terms.items():
        _check_term(term, len(ctx.batch), f"plugin '{plugin}', term '{name}'")


def _check_term(term: object, size: int, name: str) -> None:
    value = getattr(term, "value", None)
    if (
        not isinstance(term, Term)
        or not isinstance(value, torch.Tensor)
        or not value.is_floating_point()
    ):
        raise PluginError(f"{name}: not a Term with a floating-point tensor", fix=RETURN_TERMS)
    if value.shape not in ((size,), ()):
        raise PluginError(
            f"{name}: its value has the shape {tuple(value.shape)}",
            where=f"a batch of {size} samples",
            fix=f"return one value per sample, ({size},), or one scalar for the batch, ()",
        )
    if not math.isfinite(term.weight):
        raise PluginError(f"{name}: its weight is {term.weight}", fix="use a finite weight")


def check_attached(terms: Terms, plugin: str) -> None:
    """Raise PluginError where no gradient of the terms reaches the network."""
    if any(term.value.requires_grad for term in terms.values()) or not torch.is_grad_enabled():
        return
    counting = [
        name for name, term in terms.items() if term.weight and bool((term.value != 0).any())
    ]
    if counting:  # a term of zeros alone may be one that begins later
        raise PluginError(
            f"plugin '{plugin}': its terms do not depend on the network: {', '.join(counting)}",
            fix="do not detach the logits, and compute the terms with gradients enabled",
        )
