"""Writes the command of each run on a line of its own, for other machines or times."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import tomli_w

from abatis.config.run_config import RunConfig
from abatis.report.words import format_count
from abatis.system.files import explain_disk_errors, write_text

OPTIONS = "jobs"  # folder of the runs' options, beside their folders


def write_jobs(path: Path, configs: Sequence[RunConfig]) -> list[str]:
    """Write one ``defense-run`` a line, which goes on where its run stopped.

    The options of each run lie in a file, so that a line is short and says all. Paths are whole,
    but for those within the options.

    Returns:
        What to do with them, in sentences.

    Raises:
        UsageError: the files cannot be written.
    """
    lines = []
    for config in configs:
        assert config.name is not None
        folder = config.out / OPTIONS
        options = folder / f"{config.name}.toml"
        with explain_disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            write_text(options, tomli_w.dumps(config.to_toml()))
        words = ["--config", str(options.resolve()), "--out", str(config.out.resolve())]
        lines.append(shlex.join(["defense-run", *words, "--name", config.name, "--resume"]))
    with explain_disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, "".join(f"{line}\n" for line in lines))
    if not lines:
        return [f"no run is left to train: {path} is empty; repeat this command without --jobs"]
    file = shlex.quote(str(path))
    return [
        f"wrote {format_count(len(lines), 'command')} to {path}",
        f"run them with: defense jobs run {file}; then repeat this command without --jobs",
    ]
