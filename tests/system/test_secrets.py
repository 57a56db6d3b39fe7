"""No token reaches environment.json."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from abatis.system.environment import collect_environment
from abatis.system.secrets import mask_text, mask_variables, mask_words

PLAIN = [
    "defense-run",
    "--backbone",
    "net.py:make",
    "--threat=Linf:8/255",
    "--use",
    "loss=trades",
    "--optim.betas",
    "0.9,0.99",
    "--mine.tokens-per-image",
    "16",
    "--name",
    "monkey=1",
    "--recipe",
    "emr/released-at",
    "--init",
    "/data/hf_cache/sk-net.safetensors",
]


def test_what_is_no_secret_stays():
    assert mask_words(PLAIN) == PLAIN


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["--token", "x y"], ["--token", "***"]),
        (["-p", "S"], ["-p", "***"]),
        (["-p", "--quiet"], ["-p", "--quiet"]),
        (["-P", "-S", "--seed", "1"], ["-P", "***", "--seed", "1"]),
        (["-phunter2"], ["-p***"]),
        (["-p=hunter2"], ["-p***"]),
        (["--private-key", "--abc"], ["--private-key", "--abc"]),
        (["--private-key", "-----BEGIN KEY-----\nabc"], ["--private-key", "***"]),
        (["--private-key", "--1abc"], ["--private-key", "***"]),
        (["-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----x"], ["***x"]),
        (["--hub.api-key=abc", "--seed", "1"], ["--hub.api-key=***", "--seed", "1"]),
        (["--hub.password", "-abc"], ["--hub.password", "***"]),
        (["--auth_token", "--quiet"], ["--auth_token", "--quiet"]),
        (["HF_TOKEN=abc"], ["HF_TOKEN=***"]),
        (["--my.accessToken", "abc"], ["--my.accessToken", "***"]),
        (["--pass", "abc", "--login=me:abc"], ["--pass", "***", "--login=***"]),
        (["--client-secret-value", "abc"], ["--client-secret-value", "***"]),
        (
            ["https://host/a?sig=abc&X-Amz-Signature=d"],
            ["https://host/a?sig=***&X-Amz-Signature=***"],
        ),
        (["--x", "sk_live_abcdefghijkl"], ["--x", "***"]),
        (["WANDB_API_KEY=abc"], ["WANDB_API_KEY=***"]),
        (["--name", "hf_abcdefghijkl"], ["--name", "***"]),
        (["--x=ghp_abcdefghijkl"], ["--x=***"]),
        (["https://me:pass@host/a.npz"], ["https://***@host/a.npz"]),
        (["https://host/a.npz?size=1&token=abc&b=2"], ["https://host/a.npz?size=1&token=***&b=2"]),
        (
            ["--hub", '{"api_key": "abc", "depth": 3}'],
            ["--hub", '{"api_key": "***", "depth": 3}'],
        ),
        (["--header", "Authorization: Bearer abc.def"], ["--header", "Authorization: *** ***"]),
    ],
)
def test_secrets_are_masked(words, shown):
    assert mask_words(words) == shown


def test_variables_are_masked_by_name_and_by_value():
    given = {"HF_TOKEN": "a", "MY_SECRET": "b", "PATH": "/bin", "PROXY": "http://u:p@h"}
    shown = {"HF_TOKEN": "***", "MY_SECRET": "***", "PATH": "/bin", "PROXY": "http://***@h"}
    assert mask_variables(given) == shown


def test_environment_json_holds_no_token(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["defense-run", "--token", "abc", "--x=hf_0123456789"])
    found = json.dumps(collect_environment(torch.device("cpu"), {}))
    assert "abc" not in found
    assert "hf_0123456789" not in found
    assert mask_text("nothing") == "nothing"
