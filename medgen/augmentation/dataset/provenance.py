"""``provenance.json`` of a written dataset: the origin and the hash of each file.

{"medgen": version, "real": {case: record}, "synthetic": {case: record}}. A record has the case's ``patient``, the
hashes of its ``files`` and ``made_of``, a hash of everything the files depend on. The record of a synthetic case also
has ``source`` (the source case), ``seed``, ``number``, ``model`` and ``operations``, as the augmenter returned them.
"""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from medgen import __version__
from medgen.data.cohort.patients import PROVENANCE, read_provenance
from medgen.io.atomic import write_text
from medgen.io.claim import remove, set_aside


def digest(*parts: Any) -> str:
    """Return the SHA-256 hash of JSON-serialisable values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def file_hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Provenance:
    """The records of a dataset that is being written; saved after every case."""

    def __init__(self, root: Path) -> None:
        self.root = root
        content = read_provenance(root)
        self.records: dict[str, dict[str, dict[str, Any]]] = {k: dict(content[k]) for k in ("real", "synthetic")}

    def holds(self, case: str, made_of: str, files: Sequence[Path]) -> dict[str, Any] | None:
        """Return the record of a case with the same ``made_of`` and unchanged files, else None."""
        record = self.records["real"].get(case) or self.records["synthetic"].get(case)
        if record is None or record.get("made_of") != made_of:
            return None
        current_hashes = {self._relative(path): file_hash(path) for path in files if path.is_file()}
        return record if record.get("files") == current_hashes and len(current_hashes) == len(files) else None

    def keep_changed(self, case: str) -> list[Path]:
        """Move the files of a case that were changed since medgen wrote them to ``.changed``; return the new paths.

        For example, a user corrected a label map by hand: the case is written again, and the correction is kept.
        """
        record = self.records["real"].get(case) or self.records["synthetic"].get(case) or {}
        moved = []
        for name, written in record.get("files", {}).items():
            path = self.root / name
            if path.is_symlink() or not path.is_file() or file_hash(path) == written or not self._inside(path):
                continue
            moved.append(set_aside(self.root, name))
        return moved

    def add(self, case: str, record: Mapping[str, Any], files: Sequence[Path], synthetic: bool) -> dict[str, Any]:
        """Record a case after its files are written; return the complete record."""
        hashes = {self._relative(path): file_hash(path) for path in files}
        self._remove(case, keep=hashes)
        full_record = {**record, "files": hashes, "medgen": __version__}
        self.records["synthetic" if synthetic else "real"][case] = full_record
        self.save()
        return full_record

    def keep_only(self, cases: Collection[str]) -> None:
        """Remove cases that only an earlier run wrote, because nnU-Net uses every file in the folder."""
        for records in self.records.values():
            for case in sorted(records.keys() - set(cases)):
                self._remove(case)
        self.save()

    def _remove(self, case: str, keep: Collection[str] = ()) -> None:
        """Remove the record and the files of a case.

        Files outside the dataset folder are kept, because a user can edit the paths in ``provenance.json``.
        """
        for records in self.records.values():
            for name in set(records.pop(case, {}).get("files", ())) - set(keep):
                path = self.root / name
                if self._inside(path):
                    remove(path)

    def _inside(self, path: Path) -> bool:
        return path.resolve().is_relative_to(self.root.resolve())

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def save(self) -> None:
        records = {kind: dict(sorted(cases.items())) for kind, cases in self.records.items()}
        write_text(self.root / PROVENANCE, json.dumps({"medgen": __version__, **records}, indent=1) + "\n")
