"""``manifest.json`` of an output folder: what became of each case, with hashes, whatever kills the run.

While a run is under way its records go into ``manifest.journal`` beside it, one JSON line a case, appended: 2,000
cases cost 2,000 lines, not 2,000 ever longer files. The end of a run, or the start of the next, folds them in.
A record is believed only where the hashes of input, model and output still hold, so one that is lost costs a
conversion done again and never a wrong result.
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
from medgen.io.claim import check_ours, wrote
from medgen.io.hashes import sha256

FORMAT = 2  # of manifest.json; before it had a number: 1
TOLD = ("sha256", "step", "weights_sha256", "training_data", "health", "versions", "commit")


def about(model: Model) -> dict[str, Any]:
    """What a manifest tells of a model."""
    return {
        "folder": str(model.folder),
        "target": model.target,
        "method": model.settings.method.name,
        **{name: getattr(model.info, name) for name in TOLD},
    }


class Manifest:
    """The records of ``folder`` by case, of this model only; ``None`` keeps none.

    ``model``: what is told of it; it is another one where ``sha256`` or ``target`` are others. ``name``: of the file.

    Its folder is claimed by the run, see ``io.claim``. As a context it ends with everything in ``manifest.json``.

    Raises:
        InputError: a manifest.json that is none or of another format, or a folder that cannot be written.
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
            wrote(self.journal)
            self._file = open(self.journal, "ab", buffering=0)
        except OSError as error:
            raise InputError(
                "output-not-writable", f"{self.journal} cannot be written ({error.strerror}); choose another output"
            ) from None
        try:
            self.cases = {**(kept or {}), **self._told()}
            if kept is None or self._file.seek(0, os.SEEK_END):  # a first run, another model, or what a killed run left
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
        told: Mapping[str, Any],
        outputs: Sequence[Path],
        hashed: Callable[[Sequence[Path]], str] = sha256,
    ) -> bool:
        """Whether a case is recorded with these values, did not fail, and its outputs are still the same.

        Of ``output`` the file's name counts: the folder may have been moved, or be named from elsewhere.
        """
        old = self.cases.get(case)
        if not old or old.get("status") == "failed" or any(_plain(old, k) != _plain(told, k) for k in told):
            return False
        return all(path.exists() for path in outputs) and hashed(outputs) == old.get("output_sha256")

    def add(self, case: str, entry: Any) -> None:
        """Record what became of a case: a dataclass with a ``status`` and ``output_sha256``. Any thread may.

        On a full disk the record stays in memory, and ``fold`` says so if that cannot write it either.
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
                    self._file.truncate(end)  # a full disk takes a part

    def order(self, cases: Iterable[str]) -> None:
        """Put these last, in this order, as if they had been recorded in it."""
        for case in dict.fromkeys(cases):
            if case in self.cases:
                self.cases[case] = self.cases.pop(case)

    def fold(self) -> None:
        """Everything into ``manifest.json``; the journal starts anew.

        Raises:
            InputError: it cannot be written; then the journal still has it.
        """
        if self.path is None:
            return
        with self._adding:
            self.write(self.path)
            self._file.truncate(0)

    def write(self, path: Path) -> None:
        """All records, to this file; see ``fold`` for what it raises."""
        write_text(path, json.dumps({"format": FORMAT, "model": self.model, "cases": self.cases}, indent=1))

    def _identity(self) -> dict[str, Any]:
        return {"sha256": self.model["sha256"], "target": self.model.get("target")}

    def _kept(self, path: Path) -> dict[str, dict[str, Any]] | None:
        """The cases of ``manifest.json``; None where there is none of this model."""
        if not path.exists():
            return None
        try:
            old = json.loads(path.read_text())
            same = {"sha256": old["model"]["sha256"], "target": old["model"].get("target")} == self._identity()
            cases = {str(case): dict(record) for case, record in old["cases"].items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError):
            raise InputError(
                "manifest-foreign", f"{path} is not a manifest of medgen; move it away or choose another output"
            ) from None
        if old.get("format", 1) != FORMAT:
            raise InputError(
                "manifest-format",
                f"{path} is of format {old.get('format', 1)!r}, but this medgen goes on with format {FORMAT}; "
                "choose another output, or go on with the medgen version that wrote it",
            )
        return cases if same else None

    def _told(self) -> dict[str, dict[str, Any]]:
        """The cases of the journal of a killed run of this model; its last line may be torn."""
        found: dict[str, dict[str, Any]] = {}
        mine = False
        for line in self.journal.read_bytes().splitlines():
            try:
                told = json.loads(line)
                if "model" in told:
                    mine = told["model"] == self._identity()
                elif mine:
                    found[str(told["case"])] = dict(told["record"])
            except (ValueError, KeyError, TypeError, RecursionError):
                continue
        return found


def _plain(values: Mapping[str, Any], key: str) -> Any:
    value = values.get(key)
    return Path(value).name if key == "output" and isinstance(value, str) else value
