"""Files of a finished run that were edited or damaged: never a number from them without a word."""

from __future__ import annotations

import json
import shutil

import pytest
from safetensors.torch import save

import abatis
from abatis.cli import main
from abatis.commands.compare import command as compare
from abatis.errors import AbatisError, DataError, UsageError
from tests.helpers import tiny


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("finished")
    return abatis.run(tiny(out, name="r", epochs=1, eval="quick")).folder


@pytest.fixture
def folder(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "r")


EDITS = {
    "run.toml": ("limit = 150", "limit = 900"),
    "plan.json": ('"steps": 2', '"steps": 7'),
    "metrics.jsonl": ('"step": 4', '"step": 9'),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_file_of_a_run_is_named_where_its_numbers_are_read(folder, name, tmp_path):
    before, after = EDITS[name]
    text = (folder / name).read_text()
    assert before in text
    (folder / name).write_text(text.replace(before, after))
    says = f"{name} is not as it was when the run was evaluated"
    with pytest.raises(DataError, match=says):
        compare([str(folder), "--allow-fail", "--out", str(tmp_path / "c")])
    with pytest.raises(DataError, match=says):
        abatis.run(tiny(tmp_path, name="r", epochs=1, eval="quick", resume=True))
    words = ["export", str(folder), "--to", "safetensors", "--out", str(tmp_path / "e")]
    assert main([*words, "--allow-fail"]) == 2
    assert main(["eval", str(folder), "--ladder", "quick", "--quiet"]) == 2


def test_an_evaluation_under_another_threat_is_not_the_run_s(folder, tmp_path):
    """It is made again, not shown as the result of this run."""
    record = json.loads((folder / "eval.json").read_text())
    record = {key: value for key, value in record.items() if not key.endswith("_sha256")}
    (folder / "eval.json").write_text(json.dumps({**record, "threat": "Linf:0.2"}))
    again = abatis.run(tiny(tmp_path, name="r", epochs=1, eval="quick", resume=True))
    assert json.loads((folder / "eval.json").read_text())["threat"] == "Linf:0.1"
    assert again.verdict is not None


def test_an_evaluation_that_lost_its_checksum_is_refused(folder):
    record = json.loads((folder / "eval.json").read_text())
    del record["content_sha256"]
    (folder / "eval.json").write_text(json.dumps(record))
    with pytest.raises(DataError, match="its own sha256 is missing"):
        compare([str(folder), "--allow-fail"])


@pytest.mark.parametrize("key", [b"content_sha256", b"abatis", b"num_classes"])
def test_a_damaged_header_of_weights_is_no_file_of_an_older_version(folder, key):
    """One bit in the name of a fact, and the checksum would be unknown or gone."""
    (folder / "eval.json").unlink()
    data = bytearray((folder / "weights.safetensors").read_bytes())
    data[data.index(key)] ^= 1
    (folder / "weights.safetensors").write_bytes(data)
    with pytest.raises(UsageError, match="cannot read weights"):
        abatis.load(folder)


def test_weights_of_an_older_version_are_read(folder):
    model = abatis.load(folder)
    (folder / "eval.json").unlink()
    facts = {"backbone": "cnn", "num_classes": 10, "channels": 1, "image_size": 8}
    metadata = {"abatis": json.dumps(facts)}
    (folder / "weights.safetensors").write_bytes(save(model.state_dict(), metadata))
    assert isinstance(abatis.load(folder), type(model))


def test_the_errors_fit_on_four_lines(folder):
    (folder / "run.toml").write_text("")
    with pytest.raises(AbatisError) as caught:
        compare([str(folder), "--allow-fail"])
    assert len(str(caught.value).splitlines()) <= 4
