"""Sending an exported folder to the Hugging Face hub, where a token is there to do it with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from abatis.errors import UsageError
from abatis.nets.backbones.from_timm import brief


def send(folder: Path, files: Sequence[Path], repo: str) -> str:
    """Upload the files to ``ORG/NAME``, made where it is not; returns what was done, in words. Raises UsageError.

    The token is huggingface_hub's own: HF_TOKEN, or that of ``hf auth login``. Without one, or offline, nothing is sent.
    """
    import huggingface_hub
    from huggingface_hub import constants

    token = huggingface_hub.get_token()
    if token is None or constants.HF_HUB_OFFLINE:
        why = "HF_HUB_OFFLINE is set" if token else "there is no token (HF_TOKEN, or hf auth login)"
        return f"not sent: {why}; later: hf upload {repo} {folder}"
    try:
        api = huggingface_hub.HfApi(token=token, library_name="abatis")
        api.create_repo(repo, exist_ok=True)
        api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            allow_patterns=[file.name for file in files],
            commit_message="Weights, configuration and model card",
        )
    except Exception as error:  # no network, no right to the name: the folder is there all the same
        raise UsageError(
            f"the folder is written, but could not be sent to {repo}: {brief(error).replace(token, '...')}",
            where=str(folder),
            fix=f"hf upload {repo} {folder}",
        ) from error
    return f"sent to {repo}: abatis.load('hf-hub:{repo}')"
