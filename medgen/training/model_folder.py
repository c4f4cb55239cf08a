"""Write the model folders of a run: ``best``, ``last`` and ``kept/STEP``."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from medgen import checkpoint
from medgen.config import plain
from medgen.data.prepared import ModelData
from medgen.errors import InputError
from medgen.io.atomic import atomic_folder, write_text
from medgen.io.claim import remove
from medgen.model_card import CARD, card_text
from medgen.model_info import ModelInfo
from medgen.training.run import Run

IDLE = (
    "the model's last validation score was no better than that of the unconverted scans; train for longer, or check "
    "the data"
)


def save(run: Run, data: ModelData, folder: Path, *, training: bool) -> None:
    """Replace a model folder in one rename, so that it is always complete.

    Args:
        training: whether to add the state for an exact resume; every process then adds its own.

    Raises:
        InputError: the folder cannot be written; its previous content is kept.
    """
    try:
        if run.fabric.world_size == 1 or not training:
            _write(run, data, folder, training)
        else:
            _write_with_all_processes(run, data, folder)
    except OSError as error:
        raise InputError(
            "training-state-not-written",
            f"{folder} cannot be written at step {run.step} ({error.strerror or error}); its previous content is "
            "intact; free disk space, then continue with --resume",
        ) from None


def write_card(folder: Path) -> None:
    """Write the card of a model folder at the end of a training, unless its user wrote one."""
    if (folder / "model.json").is_file() and not (folder / CARD).exists():
        write_text(folder / CARD, card_text(checkpoint.read_info(folder)[0]))


def forget_card(folder: Path) -> None:
    """Delete the card of an earlier training, whose numbers change now; a card that its user changed stays."""
    remove(folder / CARD)


@contextmanager
def _card_kept(folder: Path) -> Iterator[None]:
    """Keep the card of a model folder that is replaced."""
    card = (folder / CARD).read_bytes() if (folder / CARD).is_file() else None
    yield
    if card is not None:
        (folder / CARD).write_bytes(card)


def _write(run: Run, data: ModelData, folder: Path, training: bool) -> None:
    with _card_kept(folder), atomic_folder(folder) as temporary:
        checkpoint.save_model(temporary, _weights(run), model_info(run, data))
        if training:
            checkpoint.save_training(temporary, run.state())


def _write_with_all_processes(run: Run, data: ModelData, folder: Path) -> None:
    fabric = run.fabric
    shared = folder.with_name(f".{folder.name}.parts")
    if fabric.is_global_zero:
        shutil.rmtree(shared, ignore_errors=True)  # a killed run may have left parts
        shared.mkdir()
    fabric.barrier()
    checkpoint.save_training(shared, run.state(), fabric.global_rank)
    fabric.barrier()
    if fabric.is_global_zero:
        with _card_kept(folder), atomic_folder(folder) as temporary:
            checkpoint.save_model(temporary, _weights(run), model_info(run, data))
            for part in shared.iterdir():
                part.rename(temporary / part.name)
    fabric.barrier()


def _weights(run: Run) -> nn.Module:
    return run.average if run.settings.train.ema else run.generator


def model_info(run: Run, data: ModelData) -> ModelInfo:
    """The content of ``model.json`` at the current step; `checkpoint.save_model` adds versions and hashes."""
    values = {
        "format": checkpoint.FORMAT,
        "settings": plain(run.settings),
        "source_range": [r.to_dict() for r in data.source_range],
        "target_range": [r.to_dict() for r in data.target_range],
        "spacing": data.spacing,
        "training_scans": data.training_scans,
        "training_targets": data.training_targets,
        "training_data": data.training_data,
        "step": run.step,
        "validation": run.curve[-1] if run.curve else {},
        "curve": run.curve,
        "health": [*run.health, *([IDLE] if run.idle else [])],
        "versions": {},
        "commit": None,
        "weights_sha256": "",
    }
    return ModelInfo.model_validate(values)
