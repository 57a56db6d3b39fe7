"""What a run must have in common with the checkpoint it resumes from."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from abatis import run
from abatis.errors import CheckpointError, UsageError
from abatis.runs import runner
from abatis.system.files import sha256_of
from abatis.system.user_module import run_file
from abatis.train.checkpoint import Loaded
from abatis.train.code_digests import digest_structure, find_local_imports
from abatis.train.resume import (
    Start,
    check_fit,
    check_resumable,
    describe_early_stop,
    find_differences,
    is_finished,
)
from tests.helpers import tiny

BEFORE = {
    "world_size": 1,
    "options": {"epochs": 5, "batch_size": 8, "out": "a", "optim": {"lr": 0.1}, "device": "auto"},
    "versions": {"torch": "2.0", "my-idea": "1"},
    "machine": {"device": "cpu", "threads": 1},
    "content": {},
    "code": {"backbone.file": "a"},
}


def change(**tables):
    now = {key: dict(value) if isinstance(value, dict) else value for key, value in BEFORE.items()}
    for key, value in tables.items():
        now[key] = {**now[key], **value} if isinstance(value, dict) else value
    return now


@pytest.mark.parametrize(
    ("now", "found"),
    [
        (change(), ()),
        (change(options={"out": "b", "workers": 3, "nproc": 2, "ladder": "none"}), ()),
        (change(options={"epochs": 6}), ("epochs was 5, now 6",)),
        (change(machine={"device": "cuda"}), ("device was cpu, now cuda",)),
        (change(machine={"threads": 2}), ("threads was 1, now 2",)),
        (change(options={"device": "cpu"}), ()),  # what counts is the device, not its name
    ],
)
def test_what_may_differ_and_what_then_ends_bit_exactness(now, found):
    assert check_resumable(BEFORE, now, ()) == found


@pytest.mark.parametrize(
    ("now", "name", "found"),
    [
        (change(options={"epochs": 4}), "epochs", "epochs was 5, now 4"),
        (change(options={"batch_size": 9}), "batch_size", "batch_size was 8, now 9"),
        (change(options={"optim": {"lr": 0.2}}), "optim.lr", "optim.lr was 0.1, now 0.2"),
        (change(versions={"torch": "2.1"}), "torch", "torch was 2.0, now 2.1"),
        (change(versions={"my-idea": "2"}), "my_idea", "my_idea was 1, now 2"),
        (change(world_size=2), "world_size", "world_size was 1, now 2"),
        (change(code={"backbone.file": "b"}), "backbone.file", "backbone.file was a, now b"),
        (change(code={"my-idea.help.py": "b"}), "my_idea.help.py", "my_idea.help.py was None, now"),
    ],
)
def test_what_may_not_differ_unless_it_is_allowed_by_name(now, name, found):
    with pytest.raises(UsageError) as caught:
        check_resumable(BEFORE, now, ())
    assert found in caught.value.what
    assert f"--allow-mismatch {name}" in caught.value.fix
    for allowed in (name, name.replace("_", "-")):
        (difference,) = check_resumable(BEFORE, now, (allowed,))
        assert found in difference


def test_differences_are_listed_by_name():
    found = find_differences({"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 3, "d": 4}, {"d"})
    assert found == {"b": "b was 2, now 3", "c": "c was 3, now None"}


def test_a_start_is_described():
    loaded = Loaded(6, {}, {}, {}, Path())
    assert Start().describe() == []
    assert Start(None, True, ("step-6: x",)).describe() == [
        "restarted from step 0",
        "checkpoint rejected: step-6: x",
    ]
    assert Start(loaded, True, (), ("threads was 1, now 2",)).describe() == [
        "resumed after step 6",
        "not bit-exact: threads was 1, now 2",
    ]


def test_a_checkpoint_without_what_is_read_from_it_does_not_fit():
    loaded = Loaded(6, {}, {}, {}, Path())
    with (
        pytest.raises(CheckpointError, match="step 6 does not fit: KeyError: 'x'"),
        check_fit(loaded),
    ):
        raise KeyError("x")


@pytest.mark.parametrize(
    ("finished", "ended", "best", "early_stop", "expected"),
    [
        (True, 2, 2, 0, True),
        (True, 1, 1, 0, False),
        (True, 1, 1, 3, False),  # its epochs were done: it can be made longer
        (True, 4, 1, 3, True),
        (False, 2, 2, 0, False),
    ],
)
def test_a_training_has_ended(tmp_path, finished, ended, best, early_stop, expected):
    config = tiny(tmp_path, epochs=max(ended, 2) + (early_stop > 0), early_stop=early_stop)
    state = {"finished": finished, "epochs_ended": ended, "best": {"epoch": best}}
    assert is_finished(state, config) is expected


def test_what_is_said_about_an_early_stop(tmp_path):
    config = tiny(tmp_path, epochs=9, early_stop=2)
    assert describe_early_stop(2, {"epoch": 1}, config) == ""
    assert describe_early_stop(9, {"epoch": 1}, tiny(tmp_path, epochs=9)) == ""
    assert describe_early_stop(3, {"epoch": 1}, config) == (
        "early stopping ended this run after epoch 3: the best epoch was 1"
    )


def test_a_run_whose_epochs_are_done_is_made_longer_with_early_stop(tmp_path):
    run(tiny(tmp_path, name="r", epochs=1, early_stop=50))
    run(tiny(tmp_path, name="r", epochs=3, early_stop=50, resume=True))
    assert len((tmp_path / "r" / "metrics.jsonl").read_text().splitlines()) == 3


def test_a_run_that_stopped_early_says_so_and_stays_ended(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(runner, "_validate", lambda *_: (0.5, 0.5))  # never better than in epoch 1
    wanted = {"name": "r", "early_stop": 1, "quiet": False}
    run(tiny(tmp_path, epochs=4, **wanted))
    said = "note: early stopping ended this run after epoch 2: the best epoch was 1"
    assert said in capsys.readouterr().out
    run(tiny(tmp_path, epochs=5, resume=True, **wanted))
    assert said in capsys.readouterr().out
    assert len((tmp_path / "r" / "metrics.jsonl").read_text().splitlines()) == 2


NET = """
from torch import nn
from {module} import Act

def make(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), Act(), nn.Linear(16, num_classes))
"""


@pytest.fixture
def factory(tmp_path, monkeypatch):
    """A network in a file, and beside it the module it imports."""
    module = f"layers_{tmp_path.name.replace('-', '_')}"
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "net.py").write_text(NET.format(module=module))
    (tmp_path / f"{module}.py").write_text("from torch.nn import ReLU as Act")
    yield tmp_path, f"{module}.py"
    sys.modules.pop(module, None)


def test_a_network_whose_files_changed_is_refused_on_resume(factory):
    folder, helper = factory
    wanted = {"name": "r", "backbone": f"{folder / 'net.py'}:make", "resume": True}
    run(tiny(folder, epochs=1, **{**wanted, "resume": False}))
    recorded = json.loads((folder / "r" / "environment.json").read_text())["code"]
    assert recorded.keys() == {"backbone.file", f"backbone.{helper}"}
    assert recorded["backbone.file"] == f"sha256:{sha256_of(folder / 'net.py')}"
    for name, field in (("net.py", "backbone.file"), (helper, f"backbone.{helper}")):
        file = folder / name
        before = file.read_text()
        file.write_text(before.replace("ReLU", "Tanh") + "\n# changed")
        for epochs in (1, 2):  # finished, or to be made longer
            with pytest.raises(UsageError) as caught:
                run(tiny(folder, epochs=epochs, **wanted))
            assert f"{field} was sha256:" in caught.value.what
            assert f"--allow-mismatch {field}" in caught.value.fix
        file.write_text(before)
    (folder / "net.py").write_text((folder / "net.py").read_text() + "# changed")
    run(tiny(folder, epochs=2, **wanted, allow_mismatch=["backbone.file"]))
    (said,) = json.loads((folder / "r" / "environment.json").read_text())["resumed"]
    assert "not bit-exact: backbone.file was sha256:" in said


def test_another_network_from_python_is_refused_on_resume(tmp_path):
    def make(kind):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), kind(), nn.Linear(16, 10))

    run(tiny(tmp_path, name="r", epochs=1), model=make(nn.ReLU))
    with pytest.raises(UsageError, match=r"model\.structure was sha256:"):
        run(tiny(tmp_path, name="r", epochs=2, resume=True), model=make(nn.Tanh))
    run(tiny(tmp_path, name="r", epochs=2, resume=True), model=make(nn.ReLU))


def test_a_checkpoint_without_digests_of_code_is_used_and_says_so():
    before = {key: value for key, value in BEFORE.items() if key != "code"}
    assert check_resumable(before, BEFORE, ()) == ("backbone.file was not recorded",)


CLASS = """
from torch import nn

class Net(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :10]{more}
"""


def test_the_structure_of_a_network_is_not_its_weights():
    torch.manual_seed(0)
    one, other = nn.Linear(2, 3), nn.Linear(2, 3)
    assert digest_structure(one) == digest_structure(other)
    assert digest_structure(one) != digest_structure(nn.Linear(3, 3))
    other.weight.requires_grad_(False)
    assert digest_structure(one) != digest_structure(other)


def test_a_network_is_its_code_without_the_comments(tmp_path):
    nets = []
    for number, more in enumerate(["", "  # the same", ".tanh()"]):
        file = tmp_path / f"net{number}.py"
        file.write_text(CLASS.format(more=more))
        nets.append(run_file(file, f"abatis_net{number}", file.read_bytes()).Net())
    straight, commented, bent = nets
    assert repr(straight) == repr(bent) == "Net()"
    assert digest_structure(straight) == digest_structure(commented)
    assert digest_structure(straight) != digest_structure(bent)


def test_imports_from_the_same_folder_are_found(tmp_path):
    files = {
        "net.py": "import torch, one\nfrom pack import inner\nfrom pack.sub.deep import x",
        "one.py": "import two",
        "two.py": "import one",
        "pack/__init__.py": "",
        "pack/inner.py": "from . import beside\nfrom .sub import deep",
        "pack/beside.py": "",
        "pack/sub/__init__.py": "",
        "pack/sub/deep.py": "not python",
        "unused.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert set(find_local_imports(tmp_path / "net.py")) == files.keys() - {"net.py", "unused.py"}


def test_imports_from_above_and_by_name_are_found(tmp_path):
    """``sys.path.insert(0, parent)`` and ``import_module("layers")`` are usual in research code."""
    net = tmp_path / "nets" / "net.py"
    net.parent.mkdir()
    net.write_text("from above import act\nlayers = import_module('layers')")
    for file in (tmp_path / "above.py", net.parent / "layers.py", tmp_path / "unused.py"):
        file.touch()
    assert find_local_imports(net) == {
        "../above.py": tmp_path / "above.py",
        "layers.py": net.parent / "layers.py",
    }
