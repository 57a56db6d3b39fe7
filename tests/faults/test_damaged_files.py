"""Damaged files of a run: a message of at most four lines, or they are read; never a traceback."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

import abatis
from abatis.commands.compare.finished_runs import read_runs
from abatis.commands.export.card import make_card
from abatis.commands.export.finished_run import read_finished_run
from abatis.errors import AbatisError, UsageError
from abatis.nets.weights import read_contents
from abatis.nets.weights_file import read_weights, write_weights
from abatis.report.run_report import write_report
from abatis.runs.model_spec import find_model
from abatis.runs.run_folder import initialise
from abatis.train import checkpoint
from tests.faults import flip, train

FEW = settings(
    deadline=None,
    max_examples=25,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
DEEP = "[" * 3000 + "]" * 3000
ODD = ["", "[]", "null", "3", '"text"', "{}", DEEP, '{"a": ' + DEEP + "}", "\x00", "[[]]", "[{}]"]
FILES = ["run.toml", "plan.json", "eval.json", "metrics.jsonl", "environment.json"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run with an evaluation, made once."""
    return train(tmp_path_factory.mktemp("finished"), epochs=1, ema=0, eval="quick")


@pytest.fixture
def folder(finished, tmp_path):
    shutil.rmtree(tmp_path / "r", ignore_errors=True)
    return shutil.copytree(finished, tmp_path / "r")


def resume(folder):
    return train(folder.parent, epochs=1, ema=0, eval="quick", resume=True)


def export(folder):
    make_card(read_finished_run(folder, allow_fail=True), {})


def start(folder):
    initialise(torch.nn.Linear(2, 2), abatis.RunConfig(init=folder), "Linear")


READERS = {
    "load": abatis.load,
    "eval": lambda folder: find_model(str(folder), None).class_names,
    "export": export,
    "compare": lambda folder: read_runs([folder]),
    "report": write_report,
    "init": start,
}


def check_length(error):
    assert 1 <= len(str(error).splitlines()) <= 4


def read_all(folder):
    """Every reader reads, or says what is wrong."""
    for read in READERS.values():
        try:
            read(folder)
        except AbatisError as error:
            check_length(error)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", ODD, ids=range(len(ODD)))
def test_an_odd_file_is_named_or_read(folder, name, content):
    (folder / name).write_text(content)
    read_all(folder)


@FEW
@given(st.sampled_from(FILES), st.floats(0, 1), st.binary(max_size=8))
def test_a_cut_or_overwritten_file_is_named_or_read(finished, tmp_path, name, place, content):
    copy = tmp_path / "c"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(finished, copy, ignore=shutil.ignore_patterns("checkpoints"))
    before = (copy / name).read_bytes()
    at = int(place * len(before))
    (copy / name).write_bytes(before[:at] + content + (before[at + 8 :] if content else b""))
    read_all(copy)


def change(value, draw):
    """The same structure with one part replaced, shortened or left out."""
    odd = st.sampled_from([None, True, -3, 1e308, float("nan"), "text", [], {}, [None], {"a": []}])
    if isinstance(value, dict) and value and draw(st.integers(0, 4)):
        key = draw(st.sampled_from(sorted(value)))
        if draw(st.integers(0, 4)) == 0:
            return {name: part for name, part in value.items() if name != key}
        return {**value, key: change(value[key], draw)}
    if isinstance(value, list) and value and draw(st.integers(0, 4)):
        at = draw(st.integers(0, len(value) - 1))
        if draw(st.booleans()):
            return value[:at]
        return [*value[:at], change(value[at], draw), *value[at + 1 :]]
    return draw(odd)


@FEW
@given(st.data(), st.sampled_from(["eval.json", "plan.json", "environment.json"]), st.booleans())
def test_wrong_types_and_shortened_lists_are_named_or_read(finished, tmp_path, data, name, seal):
    """Also in a record without a sha256, as older versions wrote it."""
    copy = tmp_path / "c"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(finished, copy, ignore=shutil.ignore_patterns("checkpoints"))
    content = json.loads((copy / name).read_text())
    if name == "eval.json" and not seal:
        del content["content_sha256"]
    (copy / name).write_text(json.dumps(change(content, data.draw)))
    read_all(copy)


@pytest.mark.parametrize("name", ["eval.json", "run.toml", "environment.json", "plan.json"])
@pytest.mark.parametrize("content", ["", "[]", "3", DEEP], ids=range(4))
def test_a_finished_run_resumes_or_says_what_is_damaged(folder, name, content):
    (folder / name).write_text(content)
    try:
        resume(folder)
    except AbatisError as error:
        check_length(error)


@pytest.mark.parametrize("damage", ["flip", "cut", "delete"])
def test_damaged_weights_are_neither_finished_nor_loaded(folder, damage):
    path = folder / "weights.safetensors"
    content = path.read_bytes()
    resume(folder)
    if damage == "flip":
        flip(path)
    elif damage == "cut":
        path.write_bytes(content[:-8])
    else:
        path.unlink()
    for read in (resume, abatis.load, export):
        with pytest.raises(UsageError, match="weights") as caught:
            read(folder)
        assert len(str(caught.value).splitlines()) <= 4
    path.unlink(missing_ok=True)
    (folder / "eval.json").unlink()
    resume(folder)  # as the message says: made again from the checkpoint
    assert path.read_bytes() == content


def test_weights_without_a_sha256_are_held_against_the_evaluation(folder):
    """As older versions wrote them."""
    path = folder / "weights.safetensors"
    tensors, facts = read_weights(path)
    path.write_bytes(save(tensors, {"abatis": json.dumps(facts)}))
    abatis.load(folder)
    name = next(iter(tensors))
    path.write_bytes(save({**tensors, name: tensors[name] + 1}, {"abatis": json.dumps(facts)}))
    with pytest.raises(UsageError, match="not the ones that were evaluated"):
        abatis.load(folder)


@pytest.mark.parametrize("facts", ["[]", "null", "3", "{}", '{"channels": "x"}', DEEP, "{"])
def test_odd_facts_in_a_header_are_named_or_read(folder, facts):
    path = folder / "weights.safetensors"
    tensors, _ = read_weights(path)
    path.write_bytes(save(tensors, {"abatis": facts}))
    (folder / "eval.json").unlink()
    with pytest.raises(UsageError, match=r"weights"):
        abatis.load(folder)
    read_all(folder)


def test_a_flipped_bit_anywhere_in_a_weights_file_is_seen(tmp_path):
    path = tmp_path / "w.safetensors"
    tensors = {"a": torch.arange(6.0), "b": torch.tensor(2)}
    write_weights(path, tensors, {"channels": 3})
    whole = path.read_bytes()
    assert read_weights(path)[1] == {"channels": 3}
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        try:
            found, _ = read_weights(path)
        except UsageError:
            continue
        # only a bit of a name that nothing reads
        assert all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_torch_advice_to_load_without_protection_is_never_repeated(tmp_path):
    torch.save({"net": torch.nn.Linear(1, 1)}, tmp_path / "w.pt")
    for content in (None, b"", b"junk", b"\x80\x02."):
        if content is not None:
            (tmp_path / "w.pt").write_bytes(content)
        with pytest.raises(UsageError, match="cannot read weights") as caught:
            read_contents(tmp_path / "w.pt", allow_pickle=True)
        assert "weights_only" not in str(caught.value)
        assert len(str(caught.value).splitlines()) <= 4


def save_at(folder, step):
    checkpoint.save_checkpoint(folder, step, {"w": torch.zeros(2)}, {"step": step})


def test_checkpoints_behind_a_link_stay(tmp_path):
    mine, other = tmp_path / "checkpoints", tmp_path / "other"
    for step in range(1, 6):
        save_at(other, step) if step > 3 else save_at(mine, step)
    before = sorted(path.name for path in other.iterdir())
    shutil.rmtree(mine)
    mine.symlink_to(other)
    with pytest.raises(UsageError, match="symbolic link"):
        save_at(mine, 9)
    assert sorted(path.name for path in other.iterdir()) == before


def test_nothing_that_a_run_did_not_write_is_pruned(tmp_path):
    folder = tmp_path / "checkpoints"
    save_at(folder, 1)
    (folder / "step-00000001" / "notes.txt").write_text("mine")
    (folder / "step-00000002.tmp").mkdir()
    (folder / "step-00000002.tmp" / "diary").mkdir()
    (tmp_path / "far").mkdir()
    (folder / "step-00000003").symlink_to(tmp_path / "far")
    for step in range(4, 9):
        save_at(folder, step)
    assert [path.name for path in sorted(folder.iterdir())] == [
        "step-00000001",
        "step-00000002.tmp",
        "step-00000003",
        *(f"step-{step:08d}" for step in (6, 7, 8)),
    ]


def test_an_unfinished_save_is_still_cleaned_up(tmp_path):
    folder = tmp_path / "checkpoints"
    save_at(folder, 1)
    (folder / "step-00000002.tmp").mkdir()
    (folder / "step-00000002.tmp" / "state.pt").write_bytes(b"half")
    save_at(folder, 3)
    assert not (folder / "step-00000002.tmp").exists()
