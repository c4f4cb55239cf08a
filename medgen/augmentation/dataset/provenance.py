"""``provenance.json`` of a written dataset: of each file whence it came, and whether it is still whole.

{"medgen": version, "real": {case: record}, "synthetic": {case: record}}. A record has the case's ``patient``, the
hashes of its ``files`` and what it was ``made_of``; that of a synthetic case also ``source`` (the case), ``seed``,
``number``, ``model`` and ``operations``, in the words of the augmenter.
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
    """Hash of what JSON can say."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def file_hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Provenance:
    """The record of a dataset that is being written, whole on disk after every case."""

    def __init__(self, root: Path) -> None:
        self.root = root
        content = read_provenance(root)
        self.records: dict[str, dict[str, dict[str, Any]]] = {k: dict(content[k]) for k in ("real", "synthetic")}

    def holds(self, case: str, made_of: str, files: Sequence[Path]) -> dict[str, Any] | None:
        """The record of a case that was made of the same and whose files are the ones written; else None."""
        record = self.records["real"].get(case) or self.records["synthetic"].get(case)
        if record is None or record.get("made_of") != made_of:
            return None
        there = {self._relative(path): file_hash(path) for path in files if path.is_file()}
        return record if record.get("files") == there and len(there) == len(files) else None

    def keep_changed(self, case: str) -> list[Path]:
        """Move files of a case that are no longer as they were written to the folder ``.changed``; returns where to.

        Somebody corrected a label by hand, say: the case is written anew, and nothing of theirs is lost.
        """
        record = self.records["real"].get(case) or self.records["synthetic"].get(case) or {}
        kept = []
        for name, written in record.get("files", {}).items():
            path = self.root / name
            if path.is_symlink() or not path.is_file() or file_hash(path) == written or not self._inside(path):
                continue
            kept.append(set_aside(self.root, name))
        return kept

    def add(self, case: str, record: Mapping[str, Any], files: Sequence[Path], synthetic: bool) -> dict[str, Any]:
        """Record a case whose files are written; returns the whole record."""
        hashes = {self._relative(path): file_hash(path) for path in files}
        self._remove(case, keep=hashes)
        whole = {**record, "files": hashes, "medgen": __version__}
        self.records["synthetic" if synthetic else "real"][case] = whole
        self.save()
        return whole

    def keep_only(self, cases: Collection[str]) -> None:
        """Remove what an earlier run wrote and this one did not: nnU-Net counts every file of the folder."""
        for records in self.records.values():
            for case in sorted(records.keys() - set(cases)):
                self._remove(case)
        self.save()

    def _remove(self, case: str, keep: Collection[str] = ()) -> None:
        """Forget a case and remove its files as they were written, in the folder only: anybody may have named them."""
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
