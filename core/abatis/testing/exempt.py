"""Who leaves out or replaces a standard test says why, and the reason is printed."""

from __future__ import annotations

from collections.abc import Mapping

from abatis.errors import UsageError, did_you_mean


def require_reasons(cls: type, standard: Mapping[str, object], exempt: Mapping[str, str]) -> None:
    """Raise UsageError where a class replaces or deletes a standard test, or names one that is none, without a reason."""
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


def reasons(cls: type, standard: Mapping[str, object]) -> dict[str, tuple[str, str]]:
    """Of every exempt test whether it is "left out" or "replaced", and why."""
    exempt: Mapping[str, str] = cls.exempt  # type: ignore[attr-defined]
    return {
        name: ("left out" if is_left_out(cls, name, standard) else "replaced", why)
        for name, why in exempt.items()
    }


def is_left_out(cls: type, name: str, standard: Mapping[str, object]) -> bool:
    """Is a standard test exempt, and nothing put in its place?"""
    return getattr(cls, name, None) in (None, standard[name])


def _fix(name: str) -> str:
    return f'exempt = {{"{name}": "why it does not apply"}}'
