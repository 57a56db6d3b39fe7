"""Any configuration, registry or checkpoint is used, or refused in a few lines."""

from __future__ import annotations

import json
import shutil

import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from abatis.commands.registry import entries as registry
from abatis.config.command_line import parse_run
from abatis.config.run_config import RunConfig
from abatis.config.toml import read_toml
from abatis.errors import AbatisError, CheckpointError, UsageError
from abatis.train.checkpoint import load_checkpoint, save_checkpoint

FUZZ = settings(
    deadline=None,
    max_examples=50,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
KEYS = st.text(max_size=8)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)
OPTIONS = [*RunConfig.model_fields, "emr", "mart"]
TABLES = st.dictionaries(st.sampled_from(OPTIONS) | st.text(max_size=8), VALUES, max_size=4)
FLAGS = [f"--{name.replace('_', '-')}" for name in OPTIONS] + [
    "--optim.lr",
    "--attack.steps",
    "--emr.weight",
    "--",
    "-",
    "--use",
]
SOME_WORDS = st.lists(
    st.sampled_from([*FLAGS, "emr", "8/255", "Linf:0.1", "0", "-1", "digits", "x=y"])
    | st.text(max_size=8),
    max_size=5,
)


def told(error, words=""):
    """The error is short, and says this."""
    assert len(str(error).splitlines()) <= 4
    assert words in str(error)


@FUZZ
@given(TABLES)
def test_any_table_is_a_configuration_or_refused(table):
    try:
        config = RunConfig.model_validate(table)
    except AbatisError as error:
        told(error)
    else:
        assert RunConfig.model_validate(config.to_toml()).to_toml() == config.to_toml()


@FUZZ
@given(SOME_WORDS)
def test_any_words_are_a_command_line_or_refused(words):
    try:
        parse_run(["--quiet", *words])
    except AbatisError as error:
        told(error)
    except SystemExit as after_help:
        told(after_help, "0")


@FUZZ
@given(st.binary(max_size=60) | TABLES.map(repr).map(str.encode) | st.just(b"a = " + b"[" * 10_000))
def test_any_file_is_toml_or_refused(tmp_path, content):
    file = tmp_path / "run.toml"
    file.write_bytes(content)
    try:
        assert isinstance(read_toml(file), dict)
    except AbatisError as error:
        told(error)


ENTRIES = st.fixed_dictionaries(
    {
        "method": VALUES
        | st.lists(
            st.dictionaries(
                st.sampled_from([*registry.Method.model_fields]) | st.text(max_size=6),
                st.text(st.characters(codec="utf-8"), max_size=6) | st.booleans(),
                max_size=9,
            ),
            max_size=2,
        )
    }
)


@FUZZ
@given(st.binary(max_size=60) | ENTRIES)
def test_any_registry_is_read_or_refused(tmp_path, content):
    file = tmp_path / "registry.toml"
    try:
        file.write_bytes(content if isinstance(content, bytes) else tomli_w.dumps(content).encode())
    except (TypeError, ValueError):  # no TOML at all
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "registry_file", lambda: file)
        try:
            registry.list_methods()
        except UsageError as error:
            told(error, "the registry is broken")


FILES = ("manifest.json", "weights.safetensors", "state.pt")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    import torch

    folder = tmp_path_factory.mktemp("saved")
    for step in (1, 2):
        save_checkpoint(
            folder, step, {"w": torch.full((3,), float(step))}, {"step": step}, {"options": {}}
        )
    return folder


@FUZZ
@given(st.sampled_from(FILES), st.binary(max_size=80), st.floats(0, 1), st.booleans())
def test_any_bytes_in_the_newest_checkpoint_are_rejected(
    tmp_path, saved, file, content, place, insert
):
    folder = tmp_path / "c"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(saved, folder)
    path = folder / "step-00000002" / file
    before = path.read_bytes()
    at = int(place * len(before))
    after = before[:at] + content + before[at + (0 if insert else len(content)) :]
    path.write_bytes(after)
    loaded = load_checkpoint(folder)
    same = after == before or (file == "manifest.json" and equal_json(after, before))
    assert (loaded.step, len(loaded.rejected)) == ((2, 0) if same else (1, 1))


def equal_json(one, other):
    """White space more or less is no damage."""
    try:
        return json.loads(one) == json.loads(other)
    except ValueError:
        return False


@FUZZ
@given(VALUES)
def test_any_manifest_is_rejected_in_words(tmp_path, saved, manifest):
    folder = tmp_path / "c"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(saved / "step-00000002", folder / "step-00000002")
    (folder / "step-00000002" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder)
    told(caught.value)


@FUZZ
@given(st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=20))
def test_a_folder_with_any_name_is_no_checkpoint(tmp_path, name):
    folder = tmp_path / "c"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / f"step-{name}").mkdir(parents=True)
    try:
        assert load_checkpoint(folder) is None
    except CheckpointError as error:
        assert name.isascii()
        assert name.removesuffix(".old").isdigit()
        told(error)
