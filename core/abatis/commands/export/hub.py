"""``--to hub``: uploads an exported folder to the Hugging Face hub, if there is a token."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from abatis.commands.export.finished_run import FinishedRun
from abatis.commands.export.folder import write_folder
from abatis.errors import UsageError, summarise_error


def export(asked: argparse.Namespace, run: FinishedRun) -> list[str]:
    """Write the folder, then upload it; returns the lines to print."""
    files = write_folder(run, asked.out)
    return [
        f"wrote weights, configuration and model card to {asked.out}",
        upload(asked.out, files, asked.repo),
    ]


def upload(folder: Path, files: Sequence[Path], repo: str) -> str:
    """Upload files of a folder to a repository, which is created if it does not exist.

    The token is the one huggingface_hub finds: HF_TOKEN, or that of ``hf auth login``. Without a
    token, or offline, nothing is uploaded.

    Args:
        folder: The exported folder.
        files: The files of it to upload.
        repo: ``ORG/NAME``.

    Returns:
        One line that says what was done.

    Raises:
        UsageError: The upload failed; the folder is kept.
    """
    import huggingface_hub
    from huggingface_hub import constants

    token = huggingface_hub.get_token()
    if token is None or constants.HF_HUB_OFFLINE:
        why = (
            "HF_HUB_OFFLINE is set"
            if token
            else "no token found (set HF_TOKEN, or run hf auth login)"
        )
        return f"not uploaded: {why}; to upload later: hf upload {repo} {folder}"
    try:
        api = huggingface_hub.HfApi(token=token, library_name="abatis")
        api.create_repo(repo, exist_ok=True)
        api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            allow_patterns=[file.name for file in files],
            commit_message="Weights, configuration and model card",
        )
    except Exception as error:  # no network, no permission: the folder is kept
        raise UsageError(
            f"could not be uploaded to {repo}: {summarise_error(error).replace(token, '...')}",
            where=str(folder),
            fix=f"hf upload {repo} {folder}",
        ) from error
    return f"uploaded to {repo}; load it with abatis.load('hf-hub:{repo}')"
