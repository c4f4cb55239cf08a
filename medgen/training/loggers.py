"""Further loggers of a training, by train.loggers: MLflow and Weights & Biases. Each takes scalars like TensorBoard.

Server and project are set as their users know it, by the environment (MLFLOW_TRACKING_URI, WANDB_PROJECT, ...).
"""

import importlib
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from medgen.errors import InputError, reason

log = logging.getLogger(__name__)


class Logger(Protocol):
    """What `Log` needs of a logger; TensorBoard's SummaryWriter has it."""

    def add_scalar(self, key: str, value: float, step: int) -> Any: ...

    def close(self) -> None: ...


class MLflow:
    """Runs of MLflow, named after the run folder; parameters are the sections of the config."""

    def __init__(self, out: Path, settings: dict[str, Any]) -> None:
        self.mlflow = _package("mlflow")
        for name, value in (("MAX_RETRIES", "2"), ("TIMEOUT", "20")):  # its defaults wait for minutes
            os.environ.setdefault(f"MLFLOW_HTTP_REQUEST_{name}", value)
        self.run = self.mlflow.start_run(run_name=out.resolve().name)
        self.mlflow.log_params(_flat(settings))

    def add_scalar(self, key: str, value: float, step: int) -> None:
        self.mlflow.log_metric(key, value, step=step)

    def close(self) -> None:
        self.mlflow.end_run()


class WandB:
    """Runs of Weights & Biases, named after the run folder, with the config."""

    def __init__(self, out: Path, settings: dict[str, Any]) -> None:
        self.run = _package("wandb").init(name=out.resolve().name, dir=str(out), config=settings)

    def add_scalar(self, key: str, value: float, step: int) -> None:
        self.run.log({key: value}, step=step)

    def close(self) -> None:
        self.run.finish()


LOGGERS: dict[str, Callable[[Path, dict[str, Any]], Logger]] = {"mlflow": MLflow, "wandb": WandB}


def check_loggers(names: Sequence[str]) -> None:
    """Raises InputError if the package of a logger is not installed."""
    for name in names:
        _package(name)


class Lossy:
    """A logger whose errors end only itself: a training does not depend on a server. The CSV files have all values."""

    def __init__(self, name: str, logger: Logger) -> None:
        self.name, self.logger, self.lost = name, logger, False

    def add_scalar(self, key: str, value: float, step: int) -> None:
        self._attempt(lambda: self.logger.add_scalar(key, value, step))

    def close(self) -> None:
        self._attempt(self.logger.close)

    def _attempt(self, act: Callable[[], Any]) -> None:
        if self.lost:
            return
        try:
            act()
        except Exception as error:  # the packages raise arbitrary exceptions
            self.lost = True
            log.warning("warning: %s gets no more values: %s; the CSV files have all", self.name, reason(error))


def open_loggers(names: Sequence[str], out: Path, settings: dict[str, Any]) -> list[Logger]:
    """Start the loggers of a run; ``settings``: the config as plain values.

    Raises:
        InputError: a logger cannot be started, for example because its server cannot be reached.
    """
    found: list[Logger] = []
    for name in names:
        try:
            found.append(Lossy(name, LOGGERS[name](out, settings)))
        except InputError:
            raise
        except Exception as error:
            raise InputError(
                "logger-not-started",
                f"train.loggers={name} cannot start a run ({reason(error)}); check its server and settings, or train "
                "without it",
            ) from error
    return found


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise InputError(
            "dependency-missing", f"train.loggers={name} needs {name}; install it: pip install 'medgen[{name}]'"
        ) from None


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{section.key: value}; MLflow takes parameters of up to 6,000 characters."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = str(value)[:500]
    return flat
