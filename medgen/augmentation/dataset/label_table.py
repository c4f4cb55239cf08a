"""Label names and channel names of a dataset.json."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medgen.data.cohort.layouts import named_labels
from medgen.data.cohort.nnunet import channel_names
from medgen.errors import InputError


def _channels(content: Mapping[str, Any], table: Path) -> tuple[str, ...]:
    names = channel_names(content)
    if not names:
        raise InputError(
            "dataset-channels-unnamed",
            f'{table} must name its channels by their number, such as "channel_names": {{"0": "CT"}}',
        )
    return tuple(names)


def label_table(labels: Any, table: Path) -> dict[str, int]:
    """Return {structure: value} sorted by value, with background 0 first and nnU-Net's "ignore" last.

    Raises:
        InputError: there is no table, or it has nnU-Net regions (unions of values), which are not supported.
    """
    if not isinstance(labels, dict) or not labels:
        raise InputError("labels-key-missing", f'{table} has no "labels"; list each structure there with its value')
    labels = {name: v[0] if isinstance(v, list) and len(v) == 1 else v for name, v in labels.items()}
    region = next((name for name, value in labels.items() if isinstance(value, list)), None)
    if region is not None:
        raise InputError(
            "labels-region-unsupported",
            f"{table} defines the region {region} = {labels[region]}, but medgen writes plain labels only; give each "
            "value its own name here and define the regions in the dataset that medgen writes",
        )
    named = named_labels(labels, table, ignored=True) or {}
    if "background" in named:
        raise InputError(
            "labels-background-not-zero",
            f"{table} gives background the value {named['background']}, but it must be 0; change it",
        )
    return {"background": 0, **dict(sorted(named.items(), key=lambda item: (item[0] == "ignore", item[1])))}
