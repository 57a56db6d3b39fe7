"""The hub, without one: what would be sent, and what comes back."""

from __future__ import annotations

import huggingface_hub
import pytest
from huggingface_hub import constants

import abatis
from abatis.commands.export import command
from abatis.errors import UsageError
from abatis.nets.digest import weights_digest
from abatis.runs.model_spec import find_model

TOKEN = "hf_of_nobody"


class Hub:
    """What HfApi was asked."""

    def __init__(self):
        self.calls = []
        self.error = None

    def __call__(self, **given):
        self.calls.append(("HfApi", given))
        return self

    def create_repo(self, repo, **given):
        self.calls.append(("create_repo", repo))

    def upload_folder(self, **given):
        if self.error is not None:
            raise self.error
        self.calls.append(("upload_folder", given))


@pytest.fixture
def hub(monkeypatch):
    fake = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", fake)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return fake


def send(folder, out):
    return command([str(folder), "--out", str(out), "--to", "hub", "--repo", "org/little"])


def test_three_files_are_sent(judged, tmp_path, hub, capsys):
    (tmp_path / "diary.txt").write_text("private")
    assert send(judged(), tmp_path) == 0
    assert [name for name, _ in hub.calls] == ["HfApi", "create_repo", "upload_folder"]
    sent = hub.calls[-1][1]
    assert sent["repo_id"] == "org/little"
    assert sorted(sent["allow_patterns"]) == ["README.md", "config.json", "model.safetensors"]
    assert all((tmp_path / name).is_file() for name in sent["allow_patterns"])
    assert TOKEN not in capsys.readouterr().out


@pytest.mark.parametrize("reason", ["no token", "offline"])
def test_nothing_is_sent_without_a_token_or_offline(
    reason, judged, tmp_path, hub, monkeypatch, capsys
):
    if reason == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    else:
        monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert send(judged(), tmp_path) == 0
    assert hub.calls == []
    assert "not uploaded" in capsys.readouterr().out
    assert weights_digest(abatis.load(tmp_path)) == weights_digest(abatis.load(judged()))


def test_a_refusal_says_so_and_keeps_the_token(judged, tmp_path, hub):
    hub.error = RuntimeError(f"403 for {TOKEN}")
    with pytest.raises(UsageError, match="could not be uploaded") as caught:
        send(judged(), tmp_path)
    assert TOKEN not in str(caught.value)
    assert (tmp_path / "README.md").is_file()


def test_hub_and_repo_belong_together(judged, tmp_path):
    for words in (["--to", "hub"], ["--to", "safetensors", "--repo", "a/b"]):
        with pytest.raises(UsageError, match="must be used together"):
            command([str(judged()), "--out", str(tmp_path), *words])


def test_what_the_hub_has_is_loaded_and_judged(judged, tmp_path, monkeypatch):
    folder, asked = judged(), []
    command([str(folder), "--out", str(tmp_path), "--to", "safetensors"])
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda name, **given: asked.append((name, given)) or str(tmp_path),
    )
    assert weights_digest(abatis.load("hf-hub:org/little@v2")) == weights_digest(
        abatis.load(folder)
    )
    assert asked == [
        (
            "org/little",
            {
                "revision": "v2",
                "allow_patterns": ["*.json", "*.safetensors", "pytorch_model*.bin"],
            },
        )
    ]
    assert find_model("hf-hub:org/little", None).threat == "Linf:0.1"

    def unreachable(name, **given):
        raise ConnectionError("no such host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(UsageError, match="hf-hub:org/little could not be downloaded"):
        abatis.load("hf-hub:org/little")
