"""Standard tests that a plugin leaves out or replaces: each needs a reason, which is printed."""

from __future__ import annotations

from collections.abc import Mapping

from abatis.errors import UsageError, did_you_mean


def require_reasons(cls: type, standard: Mapping[str, object], exempt: Mapping[str, str]) -> None:
    """Check that every standard test that a class replaces or deletes has a reason.

    Raises:
        UsageError: a reason is missing, or ``exempt`` names a test that does not exist.
    """
    for name in exempt:
        if name not in standard:
            raise UsageError(
                f"{cls.__name__}.exempt names '{name}': {did_you_mean(name, standard)}"
            )
        if not str(exempt[name]).strip():
            raise UsageError(f"{cls.__name__}.exempt gives no reason for {name}", fix=_fix(name))
    for name, function in standard.items():
        if getattr(cls, name, None) is not function and name not in exempt:
            raise UsageError(
                f"{cls.__name__} replaces or deletes the standard test {name} without a reason",
                fix=_fix(name),
            )


def list_reasons(cls: type, standard: Mapping[str, object]) -> dict[str, tuple[str, str]]:
    """Return for every exempt test "left out" or "replaced", and the reason."""
    exempt: Mapping[str, str] = cls.exempt  # type: ignore[attr-defined]
    return {
        name: ("left out" if is_left_out(cls, name, standard) else "replaced", why)
        for name, why in exempt.items()
    }


def is_left_out(cls: type, name: str, standard: Mapping[str, object]) -> bool:
    """Is a standard test exempt without a replacement?"""
    return getattr(cls, name, None) in (None, standard[name])


def _fix(name: str) -> str:
    return f'exempt = {{"{name}": "why it does not apply"}}'
