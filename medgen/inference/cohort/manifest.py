"""``manifest.json`` of an output folder: the result of each case with hashes, kept even if the run is killed.

During a run, records are appended to ``manifest.journal`` beside it, one JSON line per case, so that the manifest is
not rewritten for each case. The end of a run, or the start of the next, merges the journal into the manifest. A record
counts only if the hashes of input, model and output still match, so a lost record costs a repeated conversion and never
a wrong result.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from threading import Lock
from typing import Any

from medgen.checkpoint import Model
from medgen.errors import InputError
from medgen.io.atomic import write_text
from medgen.io.claim import check_ours, record_written
from medgen.io.hashes import sha256

FORMAT = 2  # version of manifest.json; files without a version number: 1
MODEL_FIELDS = ("sha256", "step", "weights_sha256", "training_data", "health", "versions", "commit")


def model_description(model: Model) -> dict[str, Any]:
    """The description of a model in a manifest."""
    return {
        "folder": str(model.folder),
        "target": model.target,
        "method": model.settings.method.name,
        **{name: getattr(model.info, name) for name in MODEL_FIELDS},
    }


def is_manifest(path: Path) -> bool:
    """Whether a file is a manifest of a conversion."""
    try:
        return {"format", "model", "cases"} <= json.loads(path.read_text()).keys()
    except (ValueError, AttributeError, RecursionError, OSError):
        return False


def describes_other(path: Path, output: Path) -> bool:
    """Whether a manifest beside an output file holds the record of another file that still exists."""
    records = json.loads(path.read_text())["cases"].values()
    names = {Path(record["output"]).name for record in records if isinstance(record.get("output"), str)}
    return any(name != output.name and (path.parent / name).exists() for name in names)


class Manifest:
    """The records of the cases in an output folder, for one model.

    The run must have claimed the folder, see ``io.claim``. Leaving the context merges the journal into the manifest.

    Args:
        folder: output folder; None: keep records in memory only.
        model: see ``model_description``. Records of a model with another ``sha256`` or ``target`` are
            ignored.
        name: file name without ending.

    Raises:
        InputError: ``manifest.json`` is not a manifest or has another format, or the folder cannot be written.
    """

    def __init__(self, folder: Path | None, model: Mapping[str, Any], name: str = "manifest") -> None:
        self.path = None if folder is None else folder / f"{name}.json"
        self.model = dict(model)
        self.cases: dict[str, dict[str, Any]] = {}
        self._adding = Lock()
        if self.path is None:
            return
        self.journal = self.path.with_suffix(".journal")
        kept = self._kept(self.path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            check_ours(self.journal)
            record_written(self.journal)
            self._file = open(self.journal, "ab", buffering=0)
        except OSError as error:
            raise InputError(
                "output-not-writable", f"{self.journal} cannot be written ({error.strerror}); choose another output"
            ) from None
        try:
            self.cases = {**(kept or {}), **self._from_journal()}
            if kept is None or self._file.seek(0, os.SEEK_END):  # first run, another model, or journal of a killed run
                self.fold()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "Manifest":
        return self

    def __exit__(self, *_: object) -> None:
        if self.path is None:
            return
        try:
            self.fold()
            self.journal.unlink(missing_ok=True)
        finally:
            self._file.close()

    def holds(
        self,
        case: str,
        fields: Mapping[str, Any],
        outputs: Sequence[Path],
        hashed: Callable[[Sequence[Path]], str] = sha256,
    ) -> bool:
        """Whether a case is recorded with the values of ``fields``, did not fail, and its outputs are unchanged.

        Of the value ``output``, only the file name is compared, because the folder may have been moved.
        """
        old = self.cases.get(case)
        if (
            not old
            or old.get("status") == "failed"
            or any(_comparable(old, k) != _comparable(fields, k) for k in fields)
        ):
            return False
        return all(path.exists() for path in outputs) and hashed(outputs) == old.get("output_sha256")

    def add(self, case: str, entry: Any) -> None:
        """Record the result of a case, a dataclass with ``status`` and ``output_sha256``. Thread-safe.

        If the disk is full, the record stays in memory; ``fold`` raises if it cannot be written then either.
        """
        with self._adding:
            self.cases[case] = asdict(entry)
            if self.path is None:
                return
            end = self._file.seek(0, os.SEEK_END)
            head = [] if end else [{"model": self._identity()}]
            lines = "".join(
                json.dumps(each) + "\n" for each in (*head, {"case": case, "record": self.cases[case]})
            ).encode()
            with suppress(OSError):
                if self._file.write(lines) < len(lines):
                    self._file.truncate(end)  # the disk is full and took only a part

    def order(self, cases: Iterable[str]) -> None:
        """Move these cases to the end, in this order."""
        for case in dict.fromkeys(cases):
            if case in self.cases:
                self.cases[case] = self.cases.pop(case)

    def fold(self) -> None:
        """Write all records to ``manifest.json`` and empty the journal.

        Raises:
            InputError: it cannot be written; the journal then keeps the records.
        """
        if self.path is None:
            return
        with self._adding:
            self.write(self.path)
            self._file.truncate(0)

    def write(self, path: Path) -> None:
        """Write all records to this file. Raises InputError."""
        write_text(path, json.dumps({"format": FORMAT, "model": self.model, "cases": self.cases}, indent=1))

    def _identity(self) -> dict[str, Any]:
        return {"sha256": self.model["sha256"], "target": self.model.get("target")}

    def _kept(self, path: Path) -> dict[str, dict[str, Any]] | None:
        """Read the cases of ``manifest.json``; None if it does not exist or is of another model."""
        if not path.exists():
            return None
        try:
            old = json.loads(path.read_text())
            same = {"sha256": old["model"]["sha256"], "target": old["model"].get("target")} == self._identity()
            cases = {str(case): dict(record) for case, record in old["cases"].items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError):
            raise InputError(
                "manifest-foreign", f"{path} is not a manifest written by medgen; move it away or choose another output"
            ) from None
        if old.get("format", 1) != FORMAT:
            raise InputError(
                "manifest-format",
                f"{path} has format {old.get('format', 1)!r}, but this medgen version needs format {FORMAT}; "
                "choose another output, or resume with the medgen version that wrote it",
            )
        return cases if same else None

    def _from_journal(self) -> dict[str, dict[str, Any]]:
        """Read the cases from the journal of a killed run of this model; its last line may be incomplete."""
        found: dict[str, dict[str, Any]] = {}
        same_model = False
        for line in self.journal.read_bytes().splitlines():
            try:
                fields = json.loads(line)
                if "model" in fields:
                    same_model = fields["model"] == self._identity()
                elif same_model:
                    found[str(fields["case"])] = dict(fields["record"])
            except (ValueError, KeyError, TypeError, RecursionError):
                continue
        return found


def _comparable(values: Mapping[str, Any], key: str) -> Any:
    value = values.get(key)
    return Path(value).name if key == "output" and isinstance(value, str) else value
