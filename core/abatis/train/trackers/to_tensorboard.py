"""TensorBoard: event files in RUN/tensorboard; ``tensorboard --logdir runs`` shows all runs."""

from __future__ import annotations

from collections.abc import Mapping

import tensorboard
from torch.utils.tensorboard import SummaryWriter

from abatis.train.trackers import Tracker


class Recorder(Tracker):
    """Writes scalars over the epochs, and the options as text."""

    version = tensorboard.__version__
    writer: SummaryWriter | None = None

    def write(self, values: Mapping[str, float], epoch: int) -> None:
        if self.writer is None:
            # drops what an earlier process wrote about epochs that are run again
            place = str(self.folder / "tensorboard")
            self.writer = SummaryWriter(place, purge_step=self.logged + 1)
            options = [f"    {name} = {value}" for name, value in self.options.items()]
            self.writer.add_text("options", "\n".join(options))
        for name, value in values.items():
            self.writer.add_scalar(name, value, epoch)
        self.writer.flush()

    def close(self, finished: bool) -> None:
        if self.writer is not None:
            self.writer.close()
