"""PACS options of ``medgen translate``: retrieve scans from a PACS, and store converted series in one."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from medgen.errors import InputError
from medgen.io.names import print_line

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
    """Refuse PACS options that conflict, before a model is loaded. Raises InputError."""
    from medgen.io.paths import ENDINGS, has_ending

    if query and from_pacs is None:
        raise InputError("option-query-needs-pacs", "--query needs a PACS; add --from-pacs ADDRESS")
    if from_pacs is not None and watch:
        raise InputError(
            "option-watch-with-pacs", "--watch reads a folder and --from-pacs reads a PACS; use only one of them"
        )
    if from_pacs is not None and has_ending(output, ENDINGS):
        raise InputError("output-file-with-pacs", f"{output} is a file name; --from-pacs needs a folder as output")
    if from_pacs is not None and cache.resolve() == output.resolve():
        raise InputError(
            "output-is-input", f"{output} is both the folder for retrieved series and the output; choose another output"
        )
    if to_pacs is not None and (format not in (None, "dicom") or has_ending(output, ENDINGS)):
        raise InputError(
            "option-format-with-pacs", "--to-pacs stores DICOM series; omit --format and give a folder as output"
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
    """Yield the scans of the studies that match the query, see ``retrieve.retrieved``; None without an address.

    The folder for the retrieved series is claimed for the duration of the block.
    """
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
            f"--from-pacs needs a model with one source contrast; this model takes {' and '.join(sources)}",
        )
    studies, server = parse_query(query), connect(address, "FROM")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # the retrieved series name patients
    except OSError as error:
        raise InputError(
            "folder-not-creatable", f"{folder} cannot be created ({error.strerror}); choose another folder as INPUT"
        ) from None
    with claimed(folder, {"command": "retrieve", "server": server.name}, overwrite=overwrite):
        yield retrieved(server, studies, folder, series=series, rules=rules, log=print_line)


class Sending:
    """Stores converted series in a PACS, in a separate thread, while the next case is converted.

    Args:
        targets: target contrasts of the model; with several, each has a folder in ``output``.
        record: folder for the record of stored series, which names the server; None: ``output``.
    """

    def __init__(self, address: str | None, output: Path, targets: Sequence[str], record: Path | None = None) -> None:
        self.storage = None
        if address is not None:
            from medgen.pacs.connect import connect
            from medgen.pacs.store import Storage

            self.storage = Storage(connect(address, "TO"), output if record is None else record, log=print_line)
        self.output = output
        self.folders = [output / target for target in targets] if len(targets) > 1 else [output]
        self.pool = ThreadPoolExecutor(1, "storage")
        self.waiting: list[Future[str]] = []

    def add(self, name: str) -> None:
        """Store the series ``name`` of each target, and the structured report of its verdict if there is one.

        Series that are stored already are not sent again.
        """
        if self.storage is None:
            return
        from medgen.inference.output import verdict_file

        for folder in self.folders:
            report = verdict_file(folder / name)
            to_send = [folder / name, report] if report.exists() else [folder / name]
            self.waiting += [self.pool.submit(self._store, path) for path in to_send]

    def finish(self) -> list[str]:
        """Wait until all series are sent; return the errors."""
        self.pool.shutdown()
        return [failure for future in self.waiting if (failure := future.result())]

    def drop(self) -> None:
        """Wait for transfers in progress, and cancel the others."""
        self.pool.shutdown(cancel_futures=True)

    def _store(self, folder: Path) -> str:
        assert self.storage is not None
        try:
            result = self.storage.store(folder)
        except (InputError, OSError) as error:
            print_line(f"  error: {error}")
            return str(error)
        print_line(f"stored {folder.relative_to(self.output)}: {result.images} images, {result.sent} of them sent now")
        for remark in result.remarks:
            print_line(f"  warning: {remark}")
        return ""
