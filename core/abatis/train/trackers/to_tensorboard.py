"""TensorBoard: event files in RUN/tensorboard; ``tensorboard --logdir runs`` shows all runs."""

from __future__ import annotations

from collections.abc import Mapping

from torch.utils.tensorboard import SummaryWriter

from abatis.train.trackers import Tracker


class Recorder(Tracker):
    """Writes scalars over the epochs, and the options as text."""

    writer: SummaryWriter | None = None

    def write(self, values: Mapping[str, float], epoch: int) -> None:
        if self.writer is None:
            # what an earlier process wrote of epochs that are run again does not count
            self.writer = SummaryWriter(str(self.folder / "tensorboard"), purge_step=self.told + 1)
            self.writer.add_text(
                "options",
                "\n".join(f"    {name} = {value}" for name, value in self.options.items()),
            )
        for name, value in values.items():
            self.writer.add_scalar(name, value, epoch)
        self.writer.flush()

    def close(self, finished: bool) -> None:
        if self.writer is not None:
            self.writer.close()
