"""MLflow: runs of the experiment "abatis" in OUT/mlflow.db.

``mlflow ui --backend-store-uri sqlite:///runs/mlflow.db`` shows them. The database is a file, as
MLflow itself advises: its store of plain files no longer accepts new runs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # a run sends nothing

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from abatis.train.trackers import Tracker

EXPERIMENT = "abatis"
AT_ONCE = 100  # parameters in a call, MLflow's limit


class Recorder(Tracker):
    """Writes metrics over the epochs, and the options as parameters."""

    version = mlflow.__version__
    client: MlflowClient | None = None

    def write(self, values: Mapping[str, float], epoch: int) -> None:
        client = self.client = self.client or self._open()
        now = int(1000 * time.time())
        client.log_batch(
            self.record, metrics=[Metric(name, value, now, epoch) for name, value in values.items()]
        )

    def close(self, finished: bool) -> None:
        if self.client is not None:
            self.client.set_terminated(self.record, "FINISHED" if finished else "KILLED")

    def _open(self) -> MlflowClient:
        """Create the record of this run, or reopen it where the run resumes."""
        out = self.folder.resolve().parent
        client = MlflowClient(f"sqlite:///{out / 'mlflow.db'}")
        if self.record:
            client.update_run(self.record, "RUNNING")
            return client
        experiment = client.get_experiment_by_name(EXPERIMENT)
        place = (
            experiment.experiment_id
            if experiment
            else client.create_experiment(EXPERIMENT, (out / "mlflow").as_uri())
        )
        self.record = client.create_run(place, run_name=self.folder.name).info.run_id
        params = [Param(name, str(value)) for name, value in self.options.items()]
        for first in range(0, len(params), AT_ONCE):
            client.log_batch(self.record, params=params[first : first + AT_ONCE])
        return client
