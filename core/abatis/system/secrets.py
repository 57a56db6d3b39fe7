"""Takes secrets out of command lines and variables before they are recorded."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

MASK = "***"
_WORDS = (
    "token|tokens|key|apikey|accesskey|secretkey|secret|secrets|password|passwd|passphrase|pwd|pat"
    "|credential|credentials|auth|authorization|bearer|pass|login|sig|signature|accesstoken"
    "|privatekey|clientsecret"
)
NAME = re.compile(rf"(?:^|[-_.])(?:{_WORDS})(?:[-_.](?:value|file))?$", re.IGNORECASE)
"""A name of something secret: --hub.api-key, HF_TOKEN."""
ASSIGNED = re.compile(
    rf"((?:^|[^A-Za-z0-9])[\"']?(?:[\w.-]*[-_.])?(?:{_WORDS})[\"']?\s*[:=]\s*[\"']?)([^\s\"',}}&]+)",
    re.IGNORECASE,
)
"""A name of something secret and its value: TOKEN=x, "api_key": "x", ?token=x."""
TOKEN = re.compile(
    r"(?<![A-Za-z0-9])(?:hf_|gh[oprsu]_|github_pat_|glpat-|sk[-_]|r8_|xox[abprs]-|AKIA|ASIA|AIza|npm_|pypi-)"
    r"[A-Za-z0-9_-]{8,}"
    r"|eyJ[\w-]+\.[\w-]+\.[\w-]+"
)
"""Tokens that are known by their first letters."""
LOGIN = re.compile(r"(?<=://)[^/@\s]+(?=@)")
"""User and password of an address."""
KEY_BLOCK = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*-----|\Z)", re.DOTALL
)
"""A private key as files hold it."""
OPTION = re.compile(r"--[A-Za-z]")
"""How a word begins that is an option, and no value."""
PASSWORD = re.compile(r"-[pP](?!$)(?!-)")
"""A password behind a single letter, as in ``mysql -pSECRET``."""
AUTHORIZATION = re.compile(r"\b(bearer|basic)\s+\S+", re.IGNORECASE)


def mask_words(words: Sequence[str]) -> list[str]:
    """Return a command line in which everything that looks like a secret is ``***``."""
    return list(_mask_words(words))


def _mask_words(words: Sequence[str]) -> Iterator[str]:
    is_secret = False
    for word in words:
        if is_secret and not OPTION.match(word):
            yield MASK
            is_secret = False
            continue
        flag, equals, _ = word.partition("=")
        named = word in ("-p", "-P") or bool(NAME.search(word))
        is_secret = word.startswith("-") and not equals and named
        if word.startswith("-") and equals and NAME.search(flag):
            yield f"{flag}={MASK}"
        elif PASSWORD.match(word):
            yield f"{word[:2]}{MASK}"
        else:
            yield mask_text(word)


def mask_variables(variables: Mapping[str, str]) -> dict[str, str]:
    """Return environment variables in which everything that looks like a secret is ``***``."""
    return {
        name: MASK if NAME.search(name) else mask_text(value) for name, value in variables.items()
    }


def mask_text(text: str) -> str:
    """Return a text in which everything that looks like a secret is ``***``."""
    text = KEY_BLOCK.sub(MASK, text)
    text = LOGIN.sub(MASK, text)
    text = AUTHORIZATION.sub(rf"\1 {MASK}", text)
    text = ASSIGNED.sub(rf"\1{MASK}", text)
    return TOKEN.sub(MASK, text)
