"""What trackers are told, and what their libraries have of it afterwards."""

from __future__ import annotations

import json
import struct
import sys

import pytest

import abatis
from abatis import TrainerHooks
from abatis.errors import PluginError, UsageError
from abatis.report.eval_record import read_record
from abatis.train.trackers import Tracker
from tests.helpers import final_bytes, plugin, tiny


def rows_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


class Told(TrainerHooks):
    def __init__(self):
        self.rows = []

    def metrics(self, values):
        self.rows.append(dict(values))


def test_a_hook_is_told_what_metrics_jsonl_has_and_then_the_evaluation(install, tmp_path):
    told = Told()
    install(plugin("told", trainer=lambda run: told))
    result = abatis.run(tiny(tmp_path, plugin=["told"], limit=60, eval="quick"))
    assert told.rows[:2] == rows_of(result.folder)
    assert told.rows[2] == {
        "epoch": 2,
        "test_clean_acc": result.clean_acc,
        "test_pgd20_acc": result.pgd20_acc,
        "test_margin_pgd20_acc": read_record(result.folder)["margin_pgd20_acc"],
        "test_robust_acc": result.robust_acc,
    }


def test_a_hook_that_fails_on_metrics_is_named(install, tmp_path):
    class Full(TrainerHooks):
        def metrics(self, values):
            raise OSError("no space")

    install(plugin("full", trainer=lambda run: Full()))
    with pytest.raises(PluginError, match="plugin 'full' failed in its metrics: OSError: no space"):
        abatis.run(tiny(tmp_path, plugin=["full"]))


@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "wandb"])
def test_a_missing_library_is_said_before_anything_is_done(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"abatis.train.trackers.to_{name}", raising=False)
    with pytest.raises(UsageError, match=f"{name} is not installed") as caught:
        abatis.run(tiny(tmp_path, track=[name]))
    assert caught.value.fix == f"pip install 'abatis[{name}]'"
    assert list(tmp_path.iterdir()) == []


def test_a_tracker_goes_on_with_its_record_and_starts_one_where_the_checkpoint_has_none(tmp_path):
    first, second = Tracker(tmp_path, {}), Tracker(tmp_path, {})
    first.record, first.logged = "x1", 3
    second.load_state_dict(first.state_dict())
    assert (second.record, second.logged) == ("x1", 3)
    second.load_state_dict({})
    assert (second.record, second.logged) == ("", 0)


def interrupted_and_resumed(out, name):
    """A run of one epoch that goes on to the second, judged; its folder."""
    abatis.run(tiny(out, name="little", track=[name], epochs=1))
    return abatis.run(
        tiny(out, name="little", track=[name], epochs=2, resume=True, eval="quick", limit=150)
    ).folder


def expected(folder):
    """(name, epoch, value) of all that a tracker was told."""
    seen = {
        (key, row["epoch"]): row[key] for row in rows_of(folder) for key in row if key != "epoch"
    }
    record = json.loads((folder / "eval.json").read_text())
    return seen | {
        (f"test_{key}", 2): record[key]
        for key in ("clean_acc", "pgd20_acc", "margin_pgd20_acc", "robust_acc")
    }


@pytest.mark.slow
def test_tracking_changes_nothing_in_the_run(tmp_path):
    pytest.importorskip("tensorboard")
    with_it, without = (
        abatis.run(tiny(tmp_path, name=f"n{len(track)}", track=track))
        for track in (["tensorboard"], [])
    )
    assert final_bytes(with_it.folder) == final_bytes(without.folder)


@pytest.mark.slow
def test_tensorboard_has_every_number_once(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = interrupted_and_resumed(tmp_path, "tensorboard")
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    found = {
        (tag, event.step): event.value
        for tag in events.Tags()["scalars"]
        for event in events.Scalars(tag)
    }
    assert found == pytest.approx(expected(folder), rel=1e-6)  # float32


@pytest.mark.slow
def test_mlflow_has_one_run_with_every_number(tmp_path):
    pytest.importorskip("mlflow")
    from mlflow import MlflowClient

    folder = interrupted_and_resumed(tmp_path, "mlflow")
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("abatis").experiment_id])
    assert (run.info.run_name, run.info.status) == ("little", "FINISHED")
    assert run.data.params["attack.steps"] == "2"
    assert not any(str(tmp_path) in value for value in run.data.params.values())
    history = [
        metric
        for name in run.data.metrics
        for metric in client.get_metric_history(run.info.run_id, name)
    ]
    assert {(metric.key, metric.step): metric.value for metric in history} == pytest.approx(
        expected(folder)
    )
    assert len(history) == len(expected(folder))


def logged(content, head=7, block=2**15):
    """The records of a .wandb file: seven bytes, then blocks of parts, each with checksum, length
    and place in its record.
    """
    at, whole = head, b""
    while at + 7 <= len(content):
        if at % block > block - 7:
            at += block - at % block
        length, place = struct.unpack_from("<HB", content, at + 4)
        whole += content[at + 7 : at + 7 + length]
        at += 7 + length
        if place in (1, 4):  # full, or the last part
            yield whole
            whole = b""


@pytest.mark.slow
def test_wandb_has_every_number_under_one_id_and_nothing_of_the_machine(tmp_path):
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    folder = interrupted_and_resumed(tmp_path, "wandb")
    files = sorted(folder.glob("wandb/offline-run-*/*.wandb"))
    found, ids = {}, set()
    for file in files:
        for data in logged(file.read_bytes()):
            record = Record.FromString(data)
            ids |= (
                {(record.run.run_id, record.run.host)}
                if record.WhichOneof("record_type") == "run"
                else set()
            )
            values = {
                (item.key or item.nested_key[0]): json.loads(item.value_json)
                for item in record.history.item
            }
            found |= {
                (key, values["epoch"]): value
                for key, value in values.items()
                if key[0] != "_" and key != "epoch"
            }
    assert found == pytest.approx(expected(folder))
    assert len(files) == 2
    assert [host for _, host in ids] == ["-"]
    assert not list(folder.glob("wandb/**/wandb-metadata.json"))
