"""Log of a training run: ``log.csv``, ``validation.csv``, TensorBoard, and a progress line."""

import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar
from torch import Tensor

from medgen.config import plain
from medgen.io.atomic import write_text
from medgen.io.claim import record_written
from medgen.io.names import one_line
from medgen.io.spreadsheet import csv_line, csv_text, read_csv
from medgen.settings import Settings
from medgen.training.gan_health import diagnose
from medgen.training.loggers import Logger, open_loggers


class Log:
    """Log files of a run.

    Args:
        out: run folder.
        step: the step that the run continues from; rows that an interrupted run wrote after it are dropped.
        settings: of the run, for train.loggers; None: TensorBoard only.
    """

    def __init__(self, out: Path, step: int, settings: Settings | None = None) -> None:
        from torch.utils.tensorboard import SummaryWriter  # imported here because it is slow to import

        self.out = out
        self.rows: dict[str, list[dict[str, float]]] = {}
        self.columns: dict[str, list[str]] = {}
        for name in ("log.csv", "validation.csv"):
            self.rows[name], self.columns[name] = _kept(out / name, step)
        board = out / "tensorboard"
        before = set(board.iterdir()) if board.is_dir() else set()
        self.board = SummaryWriter(str(board), purge_step=step + 1 if step else None)
        for file in set(board.iterdir()) - before:
            record_written(file)
        others = [] if settings is None else open_loggers(settings.train.loggers, out, plain(settings))
        self.boards: list[Logger] = [self.board, *others]

    def losses(self, step: int, seconds: float, values: dict[str, float]) -> None:
        """Add a row of losses and diagnostics."""
        self._add("log.csv", {"step": step, "seconds": round(seconds, 2), **values})
        for key, value in values.items():
            self._scalar(key, value, step)

    def validation(self, step: int, scores: Any) -> None:
        """Add a row of validation scores."""
        self._add("validation.csv", {"step": step, **scores.values})
        for key, value in scores.values.items():
            self._scalar(f"validation/{key}", value, step)

    def health(self) -> list[str]:
        """Problems with the training, in sentences; see ``gan_health.diagnose``."""
        return diagnose(self.rows["log.csv"])

    def close(self) -> None:
        for board in self.boards:
            board.close()

    def _scalar(self, key: str, value: float, step: int) -> None:
        for board in self.boards:
            board.add_scalar(key, value, step)

    def _add(self, name: str, row: dict[str, float]) -> None:
        """Append a row; rewrite the file if the row has new columns (a loss that is not computed at every step)."""
        rows, columns = self.rows[name], self.columns[name]
        rows.append(row)
        new = [key for key in row if key not in columns]
        columns += new
        if new:
            _write(self.out / name, columns, rows)
        else:
            record_written(self.out / name)
            with open(self.out / name, "a", encoding="utf-8", newline="") as file:
                file.write(csv_line(row.get(key) for key in columns))


def _kept(path: Path, step: int) -> tuple[list[dict[str, float]], list[str]]:
    """Rows and columns up to a step, rewritten without later rows or a line that a kill truncated."""
    if not path.exists():
        return [], []
    rows = [row for row in read_csv(path) if row.get("step", "").isdigit() and int(row["step"]) <= step]
    columns = [*dict.fromkeys(key for row in rows for key in row)]
    numbers = [{k: int(v) if k == "step" else float(v) for k, v in row.items() if v} for row in rows]
    _write(path, columns, numbers)
    return numbers, columns


def _write(path: Path, columns: list[str], rows: list[dict[str, float]]) -> None:
    write_text(path, csv_text(columns, rows))


class Progress:
    """A progress bar with losses, speed and time left; without a terminal, a plain line every ten seconds."""

    def __init__(self, steps: int, minutes: float | None, shown: bool) -> None:
        self.steps, self.minutes, self.shown = steps, minutes, shown
        self.console = Console(stderr=False, highlight=False, soft_wrap=True)
        self.bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[text]}"),
            console=self.console,
            transient=True,
            disable=not (shown and self.console.is_terminal),
        )
        self.last_update = 0.0
        self.first: tuple[int, float] | None = None

    def __enter__(self) -> "Progress":
        self.bar.start()
        self.task = self.bar.add_task("training", total=1.0, text="")
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def show(self, step: int, seconds: float, losses: dict[str, Tensor], unstable: bool) -> None:
        """Update the bar, marked with UNSTABLE if ``unstable``; reads losses (a device sync) at most twice a second."""
        if not self.shown:
            return
        pause = 0.5 if self.console.is_terminal else 10.0
        self.first = self.first or (step, seconds)
        if time.monotonic() - self.last_update < pause:
            return
        self.last_update = time.monotonic()
        speed = (step - self.first[0]) / max(seconds - self.first[1], 1e-9)
        left = (self.steps - step) / speed if speed else 0.0
        if self.minutes:
            left = min(left, self.minutes * 60 - seconds) if speed else self.minutes * 60 - seconds
        values = " ".join(f"{k} {float(v.detach()):.3g}" for k, v in losses.items())
        values = f"{values}  UNSTABLE" if unstable else values
        text = f"step {step}/{self.steps}  {values}  {speed:.2f} steps/s  {_clock(left)} left"
        done = max(step / self.steps, seconds / (60 * self.minutes) if self.minutes else 0.0)
        if self.console.is_terminal:
            self.bar.update(self.task, completed=done, text=text)
        else:
            print(text, flush=True)

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        self.console.print(one_line(line), markup=False)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
