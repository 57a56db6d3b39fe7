"""The file of commands that ``defense compare --jobs`` writes."""

from __future__ import annotations

import shlex

from abatis.commands.compare import command
from abatis.commands.compare.methods import plan_methods
from abatis.commands.jobs.write import write_jobs
from abatis.config.command_line import parse_run
from tests.commands.compare.test_command import TINY, finished


def test_a_line_for_every_run_that_is_not_finished(tmp_path):
    """Each line is the run that compare would train, and may be repeated."""
    finished(tmp_path, "at")
    file = tmp_path / "list" / "jobs.txt"
    words = f"--methods at mart --seeds 2 {TINY} --out {tmp_path} --jobs {file}".split()
    assert command(words) == 0
    lines = [shlex.split(line) for line in file.read_text().splitlines()]
    assert [line[line.index("--name") + 1] for line in lines] == ["at-s1", "mart-s0", "mart-s1"]
    assert not (tmp_path / "mart-s0").exists()
    planned = plan_methods(["mart"], 2, TINY.split(), tmp_path, "")[0].configs[1]
    assert lines[2][0] == "defense-run"
    asked = parse_run(lines[2][1:])
    assert asked.to_toml() == planned.to_toml()
    assert (asked.name, asked.resume) == ("mart-s1", True)


def test_where_no_run_is_left_it_says_so(tmp_path):
    (said,) = write_jobs(tmp_path / "jobs.txt", [])
    assert "no run is left to train" in said
    config = parse_run([*TINY.split(), "--out", str(tmp_path), "--name", "one"])
    wrote, then = write_jobs(tmp_path / "the jobs.txt", [config])
    assert wrote.startswith("wrote 1 command to ")
    assert f"defense jobs run '{tmp_path}/the jobs.txt'; then" in then
