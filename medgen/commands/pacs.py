"""What ``medgen translate`` does with a PACS: scans out of one as they arrive, series into one as they are made."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from medgen.errors import InputError
from medgen.io.names import say

if TYPE_CHECKING:
    from medgen.inference.inputs import Scan
    from medgen.inference.series import Rules


def check_pacs(
    from_pacs: str | None,
    query: Sequence[str],
    to_pacs: str | None,
    cache: Path,
    output: Path,
    format: str | None,
    watch: bool,
) -> None:
    """Refuse options that do not go together, before a model is loaded."""
    from medgen.io.paths import ENDINGS, has_ending

    if query and from_pacs is None:
        raise InputError("option-query-needs-pacs", "--query asks a PACS; say which with --from-pacs")
    if from_pacs is not None and watch:
        raise InputError("option-watch-with-pacs", "--watch looks at a folder, --from-pacs at a PACS; give one of them")
    if from_pacs is not None and has_ending(output, ENDINGS):
        raise InputError("output-file-with-pacs", f"{output} is one file; with --from-pacs give a folder as output")
    if from_pacs is not None and cache.resolve() == output.resolve():
        raise InputError(
            "output-is-input", f"{output} is the folder of what is retrieved and of what is made; choose another output"
        )
    if to_pacs is not None and (format not in (None, "dicom") or has_ending(output, ENDINGS)):
        raise InputError(
            "option-format-with-pacs", "--to-pacs stores DICOM series; leave --format out and give a folder as output"
        )


@contextmanager
def from_server(
    address: str | None,
    query: Sequence[str],
    folder: Path,
    sources: Sequence[str],
    series: str | None,
    rules: "Rules | None",
    overwrite: bool,
) -> "Iterator[Iterator[Scan | None] | None]":
    """The scans of the studies that fit, see ``retrieve.retrieved``; None without an address. Holds their folder."""
    if address is None:
        yield None
        return
    from medgen.io.claim import claimed
    from medgen.pacs.connect import connect
    from medgen.pacs.retrieve import retrieved
    from medgen.pacs.server import parse_query

    if len(sources) > 1:
        raise InputError(
            "pacs-model-several-contrasts",
            f"--from-pacs is for models of one contrast; this one translates {' and '.join(sources)}",
        )
    asked, server = parse_query(query), connect(address, "FROM")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # what comes into it names patients
    except OSError as error:
        raise InputError(
            "folder-not-creatable", f"{folder} cannot be made ({error.strerror}); choose another INPUT"
        ) from None
    with claimed(folder, {"command": "retrieve", "server": server.name}, overwrite=overwrite):
        yield retrieved(server, asked, folder, series=series, rules=rules, told=say)


class Sending:
    """Stores what a run converts, in a thread of its own, while the next is converted.

    Args:
        targets: the model's; several have a folder each in ``output``.
        record: folder of the record, which names the server; None: ``output``.
    """

    def __init__(self, address: str | None, output: Path, targets: Sequence[str], record: Path | None = None) -> None:
        self.storage = None
        if address is not None:
            from medgen.pacs.connect import connect
            from medgen.pacs.store import Storage

            self.storage = Storage(connect(address, "TO"), output if record is None else record, told=say)
        self.output = output
        self.folders = [output / target for target in targets] if len(targets) > 1 else [output]
        self.pool = ThreadPoolExecutor(1, "storage")
        self.waiting: list[Future[str]] = []

    def add(self, name: str) -> None:
        """Store the series ``name`` of each target, and the report of its verdict if there is one. What has been
        stored is not sent again."""
        if self.storage is None:
            return
        from medgen.inference.output import verdict_file

        for folder in self.folders:
            report = verdict_file(folder / name)
            made = [folder / name, report] if report.exists() else [folder / name]
            self.waiting += [self.pool.submit(self._store, path) for path in made]

    def finish(self) -> list[str]:
        """Wait for all; what could not be stored."""
        self.pool.shutdown()
        return [fault for future in self.waiting if (fault := future.result())]

    def drop(self) -> None:
        """Wait for what is under way only."""
        self.pool.shutdown(cancel_futures=True)

    def _store(self, folder: Path) -> str:
        assert self.storage is not None
        try:
            result = self.storage.store(folder)
        except (InputError, OSError) as error:
            say(f"  error: {error}")
            return str(error)
        say(f"stored {folder.relative_to(self.output)}: {result.images} images, {result.sent} of them now")
        for remark in result.remarks:
            say(f"  warning: {remark}")
        return ""
