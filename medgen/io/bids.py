"""Brain Imaging Data Structure (https://bids-specification.readthedocs.io): find images, and name derivatives."""

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medgen import __version__
from medgen.errors import InputError
from medgen.io.names import one_line
from medgen.io.paths import NIFTI_ENDINGS, case_name, has_ending, walk
from medgen.io.text import read_json

log = logging.getLogger(__name__)
TABLE = "dataset_description.json"
IGNORED = "manifest.json\nmanifest.journal\nreport.html\ndeviation/\n"  # content of .bidsignore
VERSION = "1.9.0"
NAME = re.compile(r"(sub-[A-Za-z0-9]+(?:_[A-Za-z]+-[A-Za-z0-9+]+)*)_([A-Za-z0-9]+)")
PART = re.compile(r"_part-(phase|real|imag)(_|$)")  # no magnitudes
DESC = re.compile(r"_desc-([A-Za-z0-9+]+)")
LABELS = {"dseg", "probseg", "mask"}  # suffixes of segmentations, which are no images to translate


@dataclass(frozen=True)
class BidsImage:
    """Images of one subject, session and run.

    name     of the first file, without its ending
    files    one per contrast; empty where ``missing`` says which are not there
    place    path of derivatives in a data set of them, without suffix and ending
    twice    files of one name and different endings, of which none can be chosen
    """

    name: str
    files: tuple[Path, ...]
    place: Path
    missing: tuple[str, ...] = ()
    twice: tuple[Path, ...] = ()


def is_bids(root: Path) -> bool:
    """Whether a folder is a BIDS data set of raw images. Raises InputError: its description is no JSON."""
    path = root / TABLE
    if not path.is_file() or not any(root.glob("sub-*/")):
        return False
    content = read_json(path)
    return isinstance(content, dict) and "BIDSVersion" in content and content.get("DatasetType") != "derivative"


def bids_images(root: Path, contrasts: Sequence[str]) -> list[BidsImage]:
    """The NIfTI images whose suffixes are the contrasts (``T1w``), upper and lower case alike, sorted by name.

    If the one contrast is no suffix of the data set and its images have only one suffix, that one is taken.
    Derivatives and other data of the set are not read.

    Raises:
        InputError: a contrast is no suffix of the data set.
    """
    found: dict[str, dict[tuple[Path, str], Path]] = {}  # suffix → (folder, entities) → file
    twice: dict[tuple[Path, str], list[Path]] = {}
    others = []
    folders = [folder for folder in sorted(root.glob("sub-*")) if folder.is_dir()]
    walked = [(folder, name) for subject in folders for folder, _, names in walk(subject) for name in names]
    for path in sorted(folder / name for folder, name in walked):
        if not has_ending(path, NIFTI_ENDINGS):
            continue
        if not (parts := NAME.fullmatch(case_name(path))) or PART.search(parts[1]):
            others.append(str(path.relative_to(root)))
            continue
        key = path.parent, parts[1]
        if (other := found.setdefault(parts[2].lower(), {}).get(key)) is not None:
            twice.setdefault(key, [other]).append(path)
        found[parts[2].lower()][key] = path
    if others:
        shown = ", ".join(others[:5]) + (f" and {len(others) - 5} more" if len(others) > 5 else "")
        why = "their names are not those of BIDS, or of phase, real or imaginary parts"
        log.warning("%s", one_line(f"warning: {root}: not read, because {why}: {shown}"))
    suffixes = [contrast.lower() for contrast in contrasts]
    images_only = [suffix for suffix in found if suffix not in LABELS]
    if len(contrasts) == 1 and suffixes[0] not in found and len(images_only) == 1:
        suffixes = images_only
    if absent := [name for name, suffix in zip(contrasts, suffixes, strict=True) if suffix not in found]:
        there = sorted({NAME.fullmatch(case_name(path))[2] for files in found.values() for path in files.values()})  # type: ignore[index]
        raise InputError(
            "bids-contrast-missing",
            f"{root} is a BIDS data set without images named ..._{absent[0]} (it has {', '.join(there) or 'none'}); "
            "give a folder with the images of one contrast, or train with data.sources named as in the data set",
        )
    images = []
    for key in sorted({key for suffix in suffixes for key in found[suffix]}):
        files = [found[suffix].get(key) for suffix in suffixes]
        missing = tuple(name for name, file in zip(contrasts, files, strict=True) if file is None)
        known = [file for file in files if file is not None]
        place = key[0].relative_to(root) / _described(key[1])
        images.append(BidsImage(case_name(known[0]), tuple(known), place, missing, tuple(twice.get(key, ()))))
    return images


def _described(entities: str) -> str:
    """Entities of an image with those of its translation: a name has one ``desc``, which comes last."""
    if not (found := DESC.search(entities)):
        return f"{entities}_desc-synthetic"
    return f"{entities[: found.start()]}{entities[found.end() :]}_desc-{found[1]}Synthetic"


def derivative(place: Path, contrast: str) -> Path:
    """Path of a synthetic image, without ending: ``sub-01/anat/sub-01_desc-synthetic_T2w``."""
    return place.with_name(f"{place.name}_{re.sub('[^A-Za-z0-9]', '', contrast) or 'synthetic'}")


def derivatives_description(root: Path, model: str) -> str:
    """Text of the ``dataset_description.json`` of derivatives of the data set ``root``."""
    source: Any = read_json(root / TABLE)
    content = {
        "Name": f"Synthetic images of {source.get('Name') or root.resolve().name}",
        "BIDSVersion": VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [
            {
                "Name": "medgen",
                "Version": __version__,
                "Description": f"Synthetic, not for diagnosis; model {model}; manifest.json has hashes and verdicts",
            }
        ],
        "SourceDatasets": [{"URL": f"file://{root.resolve()}"}],
    }
    return json.dumps(content, indent=2) + "\n"
