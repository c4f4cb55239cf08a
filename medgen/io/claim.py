"""A folder that medgen writes belongs to one run: locked while that run writes, and recorded as its result.

``.medgen.lock`` names the process that writes now, see ``locked``. ``.medgen.record`` says of which inputs and
settings the content is and lists every file that was written, a JSON object a line, appended before the file takes
its name. With it a run goes on where it stopped, another run is refused, and nothing is ever replaced or deleted
that medgen did not write.
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
from medgen.io.names import OWN_FILES, shown

log = logging.getLogger(__name__)
RECORD = ".medgen.record"
CHANGED = ".changed"  # folder of files that somebody changed after they were written
LONG = 400  # characters that a message shows of what differs
Mark = list[int] | None  # size and modification time (ns) of a file as written; None: medgen appends to it
_claims: list["Claim"] = []  # of this process, the inner ones last


class Claim:
    """The record of a locked ``folder``. ``files``: what medgen wrote there, by path below the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / RECORD
        self.about: dict[str, str] = {}
        self.place = str(folder)  # where the folder was when the record was written
        self.files: dict[str, Mark] = {}
        self._adding = Lock()
        self._read()

    def add(self, path: Path, mark: Mark) -> None:
        """Record a file that is about to take the name ``path``."""
        name = path.relative_to(self.folder).as_posix()
        if name in self.files and mark is None and self.files[name] is None:
            return
        with self._adding, open(self.path, "ab", buffering=0) as file:
            file.write(_line({"file": name, "mark": mark}))
            self.files[name] = mark

    def unchanged(self, name: str) -> bool:
        """Whether the file is recorded and still as it was written."""
        return name in self.files and self.files[name] in (None, _mark(self.folder / name))

    def keep_changed(self, name: str, new: Path) -> None:
        """Set aside a recorded file that somebody changed, a corrected label map say, before ``new`` replaces it."""
        path = self.folder / name
        if name not in self.files or self.unchanged(name) or not os.path.lexists(path) or path.is_dir():
            return
        if path.is_symlink() or not filecmp.cmp(path, new, shallow=False):
            kept = set_aside(self.folder, name)
            log.warning("%s", shown(f"warning: {path} was changed since medgen wrote it; that file is now {kept}"))

    def clear(self) -> None:
        """Delete the files that are recorded and unchanged, and folders that this leaves empty."""
        for name in [name for name in self.files if self.unchanged(name)]:
            path = self.folder / name
            path.unlink(missing_ok=True)
            for parent in path.parents:
                if parent == self.folder or not _removed(parent):
                    break
        self.files = {}

    def write(self) -> None:
        """The whole record anew, without files that are gone."""
        self.files = {name: mark for name, mark in self.files.items() if os.path.lexists(self._place(name))}
        head: dict[str, Any] = {"medgen": __version__, "about": self.about}
        if any(map(os.path.isabs, self.about.values())):
            head["folder"] = str(self.folder)
        lines = [_line(head), *(_line({"file": name, "mark": mark}) for name, mark in self.files.items())]
        aside = self.folder / f"{RECORD}.part"
        aside.write_bytes(b"".join(lines))
        os.replace(aside, self.path)

    def _place(self, name: str) -> Path:
        """Where a file lies: under its name, or where a kill left it between the two renames of
        ``folder.folder_written_aside``."""
        path = self.folder / name
        if os.path.lexists(path) or path.parent == self.folder:
            return path
        return path.parent.with_name(f".{path.parent.name}.old") / path.name

    def _read(self) -> None:
        if not self.path.is_file():
            return
        for line in self.path.read_bytes().splitlines():
            try:
                told = json.loads(line)
                if "about" in told:
                    self.about = {str(k): str(v) for k, v in told["about"].items()}
                    self.place = str(told.get("folder", self.folder))
                elif not Path(told["file"]).is_absolute() and ".." not in Path(told["file"]).parts:
                    name = str(told["file"])
                    if self.files.get(name) != _mark(self._place(name)):  # else a kill came before this line's file
                        self.files[name] = told["mark"]
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                continue  # torn by a kill


@contextmanager
def claimed(
    folder: Path,
    about: Mapping[str, Any],
    *,
    overwrite: bool = False,
    besides: Collection[str] = (),
    free: Collection[str] = OWN_FILES,
) -> Iterator[Claim]:
    """Hold ``folder`` for one run: made if missing, locked, and refused where it holds anything but that run's result.

    Args:
        about: what the content is made of: command, inputs and the settings that change it. Paths may have moved
            together with the folder.
        overwrite: take the folder nevertheless: what its record lists and nobody has changed since is deleted,
            everything else stays.
        besides: names of files that may be there before the first run.
        free: names of files that are no result where nothing else is: the record of a run in which all cases failed.

    Raises:
        InputError: it cannot be written, is a file, another run holds it, or it holds something else.
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
def claimed_file(path: Path, *, overwrite: bool = False) -> Iterator[None]:
    """Hold the name of one output file while a run makes it. Raises InputError where it is taken or held."""
    _make(path.parent)
    with locked(path.parent, f".{path.name}.lock"):
        if os.path.lexists(path) and (path.is_dir() or not overwrite):
            raise InputError(
                "output-exists",
                shown(f"{path} is there already; choose another name, or add --overwrite to replace it"),
            )
        yield


@contextmanager
def added(*files: Path, overwrite: bool = False) -> Iterator[None]:
    """Lock the folder of ``files``, to add them to what another command made there, if anything: a report.

    Raises:
        InputError: it cannot be written, another run holds it, or one of them is there, unless its record lists it
            or ``overwrite`` is given.
    """
    _make(files[0].parent)
    place = Path(os.path.realpath(files[0].parent))
    with locked(place):
        claim = Claim(place)
        for path in files:
            if os.path.lexists(path) and not (overwrite or path.name in claim.files):
                raise InputError(
                    "output-exists", shown(f"{path} is there already; choose another name, or add --overwrite")
                )
        if claim.about:
            _claims.append(claim)
        try:
            yield
        finally:
            if claim.about:
                _claims.remove(claim)


def wrote(path: Path, aside: Path | None = None) -> None:
    """Record that ``path`` is medgen's, before ``aside`` takes its name; without ``aside``: a file that grows.

    A file of that name that somebody changed since is kept in the folder ``.changed``, which is said.
    """
    claim, place = _claim_of(path)
    if claim is not None:
        if aside is not None and aside != path:
            claim.keep_changed(place.relative_to(claim.folder).as_posix(), aside)
        claim.add(place, None if aside is None else _mark(aside))


def check_ours(path: Path) -> None:
    """Raises InputError for a file in a claimed folder that medgen did not write: it must not be replaced."""
    claim, place = _claim_of(path)
    if claim is not None and os.path.lexists(place) and not ours(path):
        raise InputError(
            "output-file-foreign",
            f"{path} was not written by this run of medgen; move it away or choose another output",
        )


def ours(path: Path) -> bool:
    """Whether a file, or a folder with something in it, is recorded as written; without a claim nothing is known."""
    claim, path = _claim_of(path)
    if claim is None:
        return True
    name = path.relative_to(claim.folder).as_posix()
    return name in claim.files


def remove(path: Path) -> None:
    """Delete a file if there is one and it is as medgen wrote it."""
    claim, place = _claim_of(path)
    if claim is None or claim.unchanged(place.relative_to(claim.folder).as_posix()):
        path.unlink(missing_ok=True)


def set_aside(folder: Path, name: str) -> Path:
    """Move the file ``folder/name`` to ``folder/.changed`` under a free name; returns where to."""
    place = folder / CHANGED / name
    place.parent.mkdir(parents=True, exist_ok=True)
    free = next(a for n in count() if not os.path.lexists(a := place.with_name(f"{n or ''}{place.name}")))
    return (folder / name).rename(free)


def apart(folder: Path, *inputs: Path | None) -> None:
    """Raises InputError where an output folder is one of the inputs or holds one."""
    place = Path(os.path.realpath(folder))
    for given in inputs:
        other = None if given is None else Path(os.path.realpath(given))
        if other is not None and other.is_relative_to(place):
            what = "is input and output at once" if place == other else f"holds the input {given}"
            raise InputError("output-is-input", shown(f"{folder} {what}; choose another output"))


def _claim_of(path: Path) -> tuple[Claim | None, Path]:
    """The innermost claim that a path lies in, and the path with its folder's links resolved."""
    if not _claims:
        return None, path
    place = Path(os.path.realpath(path.parent), path.name)
    return next((claim for claim in reversed(_claims) if place.is_relative_to(claim.folder)), None), place


def _make(folder: Path) -> bool:
    """Make a folder; whether it is new."""
    try:
        new = not os.path.lexists(folder)
        folder.mkdir(parents=True, exist_ok=True)
        return new
    except FileExistsError:
        raise InputError(
            "output-is-file", f"{folder} is a file or a dangling link where a folder is to come; choose another"
        ) from None
    except OSError as error:
        raise InputError(
            "folder-not-creatable", f"{folder} cannot be made ({error.strerror}); choose another output"
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
        return shown(
            f"{folder} holds what is no earlier state of this run ({some}); choose another output, or add --overwrite, "
            "which keeps all that medgen did not write"
        )
    key = others[0]
    was, now = claim.about.get(key, "none"), about.get(key, "none")
    readable = len(was) + len(now) < LONG and not any(re.fullmatch("[0-9a-f]{16,}", text) for text in (was, now))
    told = f"{key} was {was}, is {now}" if readable else f"{key} is another"
    return shown(
        f"{folder} holds the result of another run ({told}); choose another output, or add --overwrite to replace it"
    )


def _same(claim: Claim, key: str, about: dict[str, str]) -> bool:
    """Whether a run has this input or setting, too; a path that lies as it did from the folder is the same."""
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
