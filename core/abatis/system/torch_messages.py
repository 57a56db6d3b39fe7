"""What the texts of torch's errors mean. Nothing else in the project reads them; a test asks the installed torch for each.

torch and gloo raise a plain RuntimeError for very different things, so that only the text tells them apart.
"""

from __future__ import annotations

LOST = {
    "closed by peer": "has ended",
    "reset by peer": "has ended",
    "timed out": "stopped responding",
    "application timeout": "stopped responding",
}
"""What gloo's errors hold, and what they say of another process."""


def lacks_torchvision_operators(error: BaseException) -> bool:
    """Does torchvision fail because its operators were built for another torch?"""
    return "operator torchvision::nms does not exist" in str(error)


def lost_process(error: BaseException) -> str:
    """What an error says of another process; empty where it says something else."""
    text = str(error).lower() if isinstance(error, RuntimeError) else ""
    return next((meaning for sign, meaning in LOST.items() if sign in text), "")


def cannot_write(error: BaseException) -> bool:
    """Did torch fail to write a file? Its writers raise a RuntimeError for a disk that refuses."""
    return isinstance(error, RuntimeError) and (
        "write" in str(error) or "enforce fail" in str(error)
    )
