"""Reserve an output folder for one run: lock it while the run writes, and record what the run wrote.

``.medgen.lock`` names the process that is writing, see ``locked``. ``.medgen.record`` (JSON Lines) holds the inputs and
settings of the content and one line for each written file, appended before the file gets its final name. The record
lets a run resume, rejects a different run, and protects files that medgen did not write from being replaced or deleted.
"""

import filecmp
import json
import logging
import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from threading import Lock
from typing import Any

from medgen import __version__
from medgen.errors import InputError
from medgen.io.lock import locked
from medgen.io.names import OWN_FILES, one_line

log = logging.getLogger(__name__)
RECORD = ".medgen.record"
CHANGED = ".changed"  # folder for files that were changed by others after medgen wrote them
LONG = 400  # maximum length of the differing values in a message
Mark = list[int] | None  # size and modification time (ns) of a written file; None: medgen appends to it
_claims: list["Claim"] = []  # active claims of this process, innermost last


class Claim:
    """Record of a locked ``folder``. ``files``: written files, by path relative to the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / RECORD
        self.about: dict[str, str] = {}
        self.place = str(folder)  # location of the folder when the record was written
        self.files: dict[str, Mark] = {}
        self._adding = Lock()
        self._read()

    def add(self, path: Path, mark: Mark) -> None:
        """Record a file that is about to be renamed to ``path``."""
        name = path.relative_to(self.folder).as_posix()
        if name in self.files and mark is None and self.files[name] is None:
            return
        with self._adding, open(self.path, "ab", buffering=0) as file:
            file.write(_line({"file": name, "mark": mark}))
            self.files[name] = mark

    def unchanged(self, name: str) -> bool:
        """Return whether the file is recorded and has not changed since it was written."""
        return name in self.files and self.files[name] in (None, _mark(self.folder / name))

    def keep_changed(self, name: str, new: Path) -> None:
        """Before ``new`` replaces a recorded file, back it up if it was changed, such as a corrected label map."""
        path = self.folder / name
        if name not in self.files or self.unchanged(name) or not os.path.lexists(path) or path.is_dir():
            return
        if path.is_symlink() or not filecmp.cmp(path, new, shallow=False):
            _warn_changed(path, set_aside(self.folder, name))

    def clear(self) -> None:
        """Delete recorded files that are unchanged, and folders that become empty; move changed files aside."""
        for name in self.files:
            path = self.folder / name
            if not self.unchanged(name):
                inside = Path(os.path.realpath(path.parent)).is_relative_to(self.folder)  # not behind a link
                if inside and os.path.lexists(path) and not path.is_dir():
                    _warn_changed(path, set_aside(self.folder, name))
                continue
            path.unlink(missing_ok=True)
            for parent in path.parents:
                if parent == self.folder or not _removed(parent):
                    break
        self.files = {}

    def write(self) -> None:
        """Rewrite the record without deleted files."""
        self.files = {name: mark for name, mark in self.files.items() if os.path.lexists(self._place(name))}
        head: dict[str, Any] = {"medgen": __version__, "about": self.about}
        if any(map(os.path.isabs, self.about.values())):
            head["folder"] = str(self.folder)
        lines = [_line(head), *(_line({"file": name, "mark": mark}) for name, mark in self.files.items())]
        temporary = self.folder / f"{RECORD}.part"
        temporary.write_bytes(b"".join(lines))
        os.replace(temporary, self.path)

    def _place(self, name: str) -> Path:
        """Return the path of a file: its own, or that of the backup folder if a process was killed between the two
        renames of ``atomic.atomic_folder``."""
        path = self.folder / name
        if os.path.lexists(path) or path.parent == self.folder:
            return path
        return path.parent.with_name(f".{path.parent.name}.old") / path.name

    def _read(self) -> None:
        if not self.path.is_file():
            return
        for line in self.path.read_bytes().splitlines():
            try:
                entry = json.loads(line)
                if "about" in entry:
                    self.about = {str(k): str(v) for k, v in entry["about"].items()}
                    self.place = str(entry.get("folder", self.folder))
                elif not Path(entry["file"]).is_absolute() and ".." not in Path(entry["file"]).parts:
                    name = str(entry["file"])
                    # If the old file is unchanged, the process was killed before it replaced the file.
                    if self.files.get(name) != _mark(self._place(name)):
                        self.files[name] = entry["mark"]
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                continue  # incomplete line: the process was killed


@contextmanager
def claimed(
    folder: Path,
    about: Mapping[str, Any],
    *,
    overwrite: bool = False,
    besides: Collection[str] = (),
    free: Collection[str] = OWN_FILES,
) -> Iterator[Claim]:
    """Reserve ``folder`` for one run: create it if missing, lock it, and check that it holds only results of that run.

    Args:
        folder: output folder.
        about: command, inputs and settings that determine the content. Paths count as equal if they were moved
            together with the folder.
        overwrite: use the folder even if it holds other content: recorded and unchanged files are deleted, all others
            are kept.
        besides: names of files that may exist before the first run.
        free: names of files that do not count as results if they are the only content, such as the manifest of a run
            in which all cases failed.

    Raises:
        InputError: the folder cannot be written, is a file, is locked by another run, or holds other content.
    """
    place = os.path.realpath(folder)
    made = _make(Path(folder))
    try:
        with locked(Path(place)):
            claim = Claim(Path(place))
            _check(claim, Path(folder), _texts(about), overwrite, {*besides, *(claim.files.keys() & free)})
            _claims.append(claim)
            try:
                yield claim
            finally:
                _claims.remove(claim)
                if not claim.files:
                    claim.path.unlink(missing_ok=True)
    finally:
        if made:
            _removed(Path(place))


@contextmanager
def claimed_file(path: Path, *others: Path, overwrite: bool = False) -> Iterator[None]:
    """Reserve one output file while a run writes it.

    Args:
        path: the file.
        others: files that the run writes beside it, such as its data file; they may exist only if ``path`` does.
        overwrite: replace the file, and with it the others.

    Raises:
        InputError: a file exists, or the file is locked by another run.
    """
    _make(path.parent)
    with locked(path.parent, f".{path.name}.lock"):
        found = os.path.lexists(path)
        if found and (path.is_dir() or not overwrite):
            raise InputError(
                "output-exists",
                one_line(f"{path} already exists; choose another name, or add --overwrite to replace it"),
            )
        for other in others:
            if os.path.lexists(other) and (other.is_dir() or not found):
                raise InputError(
                    "output-exists",
                    one_line(f"{other} already exists, which is also written; choose another name than {path.name}"),
                )
        yield


@contextmanager
def adding_files(*files: Path, overwrite: bool = False) -> Iterator[None]:
    """Lock the folder of ``files`` to add them, such as a report, to the output of another command.

    Raises:
        InputError: the folder cannot be written, is locked by another run, or a file exists that is not in the record
            and ``overwrite`` is false.
    """
    _make(files[0].parent)
    place = Path(os.path.realpath(files[0].parent))
    with locked(place):
        claim = Claim(place)
        for path in files:
            if os.path.lexists(path) and not (overwrite or path.name in claim.files):
                raise InputError(
                    "output-exists", one_line(f"{path} already exists; choose another name, or add --overwrite")
                )
        if claim.about:
            _claims.append(claim)
        try:
            yield
        finally:
            if claim.about:
                _claims.remove(claim)


def record_written(path: Path, temporary: Path | None = None) -> None:
    """Record ``path`` as written by medgen, before ``temporary`` is renamed to it; None: a file that medgen appends to.

    If an existing file was changed by others, it is moved to the folder ``.changed`` with a warning.
    """
    claim, place = _claim_of(path)
    if claim is not None:
        if temporary is not None and temporary != path:
            claim.keep_changed(place.relative_to(claim.folder).as_posix(), temporary)
        claim.add(place, None if temporary is None else _mark(temporary))


def check_ours(path: Path) -> None:
    """Raise InputError if ``path`` is in a claimed folder and exists, but was not written by medgen."""
    claim, place = _claim_of(path)
    if claim is not None and os.path.lexists(place) and not is_ours(path):
        raise InputError(
            "output-file-foreign",
            f"{path} was not written by this run of medgen; move it away or choose another output",
        )


def is_ours(path: Path) -> bool:
    """Return whether a file is recorded as written by medgen; True outside claimed folders."""
    claim, path = _claim_of(path)
    if claim is None:
        return True
    name = path.relative_to(claim.folder).as_posix()
    return name in claim.files


def remove(path: Path) -> None:
    """Delete a file if it exists and has not changed since medgen wrote it."""
    claim, place = _claim_of(path)
    if claim is None or claim.unchanged(place.relative_to(claim.folder).as_posix()):
        path.unlink(missing_ok=True)


def command_of(folder: Path) -> str:
    """Return the command that wrote the folder, from its record; an empty string without a record."""
    return Claim(folder).about.get("command", "")


def _warn_changed(path: Path, kept: Path) -> None:
    text = f"warning: {path} was changed after medgen wrote it; the changed file was moved to {kept}"
    log.warning("%s", one_line(text))


def set_aside(folder: Path, name: str) -> Path:
    """Move the file ``folder/name`` to ``folder/.changed`` under an unused name; return the new path."""
    place = folder / CHANGED / name
    place.parent.mkdir(parents=True, exist_ok=True)
    free = next(a for n in count() if not os.path.lexists(a := place.with_name(f"{n or ''}{place.name}")))
    return (folder / name).rename(free)


def check_output_is_not_input(folder: Path, *inputs: Path | str | None) -> None:
    """Raise InputError if an output folder is one of the inputs or contains one.

    Inputs that do not exist, such as the names of shipped models and tables, are no folders.
    """
    place = Path(os.path.realpath(folder))
    for input_path in inputs:
        other = None if not input_path else Path(os.path.realpath(input_path))
        if other is not None and other.exists() and other.is_relative_to(place):
            what = "is both input and output" if place == other else f"contains the input {input_path}"
            raise InputError("output-is-input", one_line(f"{folder} {what}; choose another output"))


def check_file_is_not_input(path: Path, *inputs: Path | str | None) -> None:
    """Raise InputError if an output file exists and is an input or a file in one, such as a model's weights."""
    if not os.path.lexists(path):
        return
    place = Path(os.path.realpath(path))
    for input_path in inputs:
        if input_path and place.is_relative_to(os.path.realpath(input_path)):
            raise InputError(
                "output-is-input", one_line(f"{path} belongs to the input {input_path}; choose another output")
            )


def _claim_of(path: Path) -> tuple[Claim | None, Path]:
    """Return the innermost claim that contains a path, and the path with the links of its folder resolved."""
    if not _claims:
        return None, path
    place = Path(os.path.realpath(path.parent), path.name)
    return next((claim for claim in reversed(_claims) if place.is_relative_to(claim.folder)), None), place


def _make(folder: Path) -> bool:
    """Create a folder; return whether it is new."""
    try:
        new = not os.path.lexists(folder)
        folder.mkdir(parents=True, exist_ok=True)
        return new
    except FileExistsError:
        raise InputError(
            "output-is-file", f"{folder} is a file or a broken link, but a folder is needed; choose another output"
        ) from None
    except OSError as error:
        raise InputError(
            "folder-not-creatable", f"{folder} cannot be created ({error.strerror}); choose another output"
        ) from None


def _check(claim: Claim, folder: Path, about: dict[str, str], overwrite: bool, known: Collection[str]) -> None:
    try:
        names = sorted(e.name for e in os.scandir(claim.folder) if not e.name.startswith(".") and e.name not in known)
        others = [key for key in {**claim.about, **about} if not _same(claim, key, about)]
        if names and not overwrite and (others or not claim.about):
            raise InputError("folder-not-empty", _refusal(claim, folder, names, others, about))
        if others:
            claim.clear()
        claim.about = about
        claim.write()
    except OSError as error:
        raise InputError(
            "output-not-writable", f"{folder} cannot be written ({error.strerror}); choose another output"
        ) from None


def _refusal(claim: Claim, folder: Path, names: list[str], others: list[str], about: dict[str, str]) -> str:
    if not claim.about:
        some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        return one_line(
            f"{folder} has other content ({some}); choose another output, or add --overwrite, which keeps all files "
            "that medgen did not write"
        )
    key = others[0]
    was, now = claim.about.get(key, "none"), about.get(key, "none")
    readable = len(was) + len(now) < LONG and not any(re.fullmatch("[0-9a-f]{16,}", text) for text in (was, now))
    entry = f"{key} was {was}, is now {now}" if readable else f"{key} differs"
    return one_line(
        f"{folder} has the results of another run ({entry}); choose another output, or add --overwrite to replace them"
    )


def _same(claim: Claim, key: str, about: dict[str, str]) -> bool:
    """Return whether a setting is unchanged; paths are equal if their location relative to the folder is equal."""
    was, now = claim.about.get(key), about.get(key)
    if was == now or was is None or now is None:
        return was == now
    paths = os.path.isabs(was) and os.path.isabs(now)
    return paths and os.path.relpath(was, claim.place) == os.path.relpath(now, claim.folder)


def _texts(about: Mapping[str, Any]) -> dict[str, str]:
    return {key: _text(value) for key, value in about.items() if value is not None and value is not False}


def _text(value: Any) -> str:
    if isinstance(value, Path):
        return os.path.realpath(value).encode(errors="backslashreplace").decode()
    return value if isinstance(value, str) else json.dumps(value, default=_text)


def _mark(path: Path) -> Mark:
    found = os.lstat(path) if os.path.lexists(path) else None
    return [-1, -1] if found is None else [found.st_size, found.st_mtime_ns]


def _line(content: dict[str, Any]) -> bytes:
    return json.dumps(content).encode() + b"\n"


def _removed(folder: Path) -> bool:
    with suppress(OSError):
        folder.rmdir()
        return True
    return False
