"""``medgen translate``: scans through a model."""

import os
import signal
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medgen.commands.pacs import Sending, check_pacs, from_server
from medgen.commands.shared import Overwrite, Ray, Workers, cluster_of, finish, interruptible, kept_in, pick_device
from medgen.errors import InputError
from medgen.io.names import say

if TYPE_CHECKING:
    from medgen.inference.job import Converted

SYNTHETIC = "Converted images are synthetic and not for diagnosis."
STATUSES = ("converted", "skipped", "failed")
VERDICTS = ("pass", "review", "fail")


def translate(
    model: Annotated[Path, typer.Argument(help="Model folder, e.g. RUN/best.")],
    input: Annotated[
        Path,
        typer.Argument(
            help="A volume, a folder of volumes, a DICOM series folder; several contrasts: a folder of each."
        ),
    ],
    output: Annotated[Path, typer.Argument(help="A folder, or a volume's file name for one input.")],
    target: Annotated[str | None, typer.Option(help="Domain to translate to, of a model of several.")] = None,
    format: Annotated[str | None, typer.Option(help="nifti, mha, nrrd or dicom; else the input's own.")] = None,
    series: Annotated[str | None, typer.Option(help="DICOM series: UID, number or part of its description.")] = None,
    rules: Annotated[
        Path | None, typer.Option(help="YAML that says which DICOM series of a folder of mixed studies to take.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    memory_gb: Annotated[
        float | None, typer.Option(min=0.01, max=1e6, help="Bound on the memory of a whole-volume pass, GiB.")
    ] = None,
    qa_limits: Annotated[
        str,
        typer.Option(
            help="Limits of each conversion's verdict: auto (by the model), general, ct_contrast, a YAML file, none."
        ),
    ] = "auto",
    segmenter: Annotated[
        str | None, typer.Option(help="Finds anatomy and lesions for the verdict; as of medgen evaluate.")
    ] = None,
    qa_report_sr: Annotated[
        bool,
        typer.Option("--qa-report-sr", help="Write each verdict as a DICOM structured report into OUTPUT/verdicts."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only list what would be converted, and what hinders it.")
    ] = False,
    report: Annotated[bool, typer.Option(help="Write report.html into the output folder.")] = True,
    watch: Annotated[
        bool, typer.Option("--watch", help="Convert what arrives in the folder INPUT until interrupted.")
    ] = False,
    settle_seconds: Annotated[
        float, typer.Option(min=0.1, help="With --watch: seconds that a scan's files must not change before.")
    ] = 10.0,
    deidentify: Annotated[
        bool, typer.Option("--deidentify", help="Write DICOM without identity (PS3.15 basic profile).")
    ] = False,
    identity_dir: Annotated[
        Path | None,
        typer.Option(help="With --deidentify: folder of the key and all that names inputs; OUTPUT-private."),
    ] = None,
    shift_dates: Annotated[
        bool,
        typer.Option("--shift-dates", help="With --deidentify: move dates, patient by patient, in place of removal."),
    ] = False,
    ray: Ray = None,
    workers: Workers = None,
    from_pacs: Annotated[
        str | None,
        typer.Option(help="Retrieve into INPUT from dicom://AET@host:port or https://host/dicom-web, then convert."),
    ] = None,
    query: Annotated[
        list[str] | None, typer.Option(help="With --from-pacs: KEY=VALUE, which studies; may be given several times.")
    ] = None,
    to_pacs: Annotated[str | None, typer.Option(help="Store the converted series there.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Translate scans; geometry and format stay the input's."""
    from medgen.checkpoint import load_model
    from medgen.inference.check import checks_for
    from medgen.inference.cohort.run import convert
    from medgen.inference.deidentified_output import opened
    from medgen.inference.series import load_rules
    from medgen.io.paths import ENDINGS, has_ending

    check_pacs(from_pacs, query or (), to_pacs, input, output, format, watch)
    if dry_run:
        return preview(model, input, series, rules, watch, from_pacs)
    private = opened(input, output, identity_dir, shift_dates, deidentify)
    cluster = cluster_of(ray, workers, device)
    loaded = load_model(model, "cpu" if cluster else pick_device(device), target=target)
    checks = checks_for(loaded, qa_limits, segmenter, pick_device(device))
    if watch:
        _end_watch_on_signals(input)
    chosen = None if rules is None else load_rules(rules)
    data, record = loaded.settings.data, None if private is None else private.folder
    sending = Sending(to_pacs, output, data.targets, record)
    notes = [f"Model: {model}, step {loaded.info.step}, weights {loaded.info.weights_sha256[:12]}.", SYNTHETIC]
    page = (record or output) / "report.html" if report and not has_ending(output, ENDINGS) else None
    run = _Run(sending, page, notes, loaded.info.health)
    with interruptible(kept_in(output)):
        try:
            with from_server(from_pacs, query or (), input, data.sources, series, chosen, overwrite) as retrieved:
                convert(
                    loaded,
                    input if retrieved is None else retrieved,
                    output,
                    format=format,
                    series=series,
                    rules=chosen,
                    memory_gb=memory_gb,
                    watch=settle_seconds if watch else None,
                    checks=checks,
                    qa_report_sr=qa_report_sr,
                    private=private,
                    cluster=cluster,
                    overwrite=overwrite,
                    done=run.show,
                    finish=run.end,
                )
        except InputError as error:
            if not run.results:
                raise
            run.faults.append(str(error))  # of the run itself: the manifest could not be written at its end
            run.end(run.results)
        except BaseException:
            sending.drop()
            raise
    run.finish(checked=checks is not None)


@dataclass
class _Run:
    """The results of a run: each is printed and sent as it comes; at the end the report is written.

    ``page``: the report's file; None: no report. ``notes`` and ``health`` go into it. ``faults``: errors of the run
    itself, not of one case.
    """

    sending: Sending
    page: Path | None
    notes: list[str]
    health: list[str]
    results: "list[Converted]" = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def show(self, entry: "Converted", i: int, n: int) -> None:
        """Print a result and send its series to the PACS, unless it failed or its verdict is fail."""
        self.results.append(entry)
        time = f"({entry.seconds:.1f} s)" if entry.seconds else ""
        judged = f", {entry.verdict}" if entry.verdict else ""
        say(f"[{i}/{n or '?'}] {entry.case}: {entry.status}{judged} {time}")
        for warning in entry.warnings:
            say(f"  warning: {warning}")
        for note in entry.notes:
            say(f"  note: {note}")
        for reason in entry.reasons:
            say(f"  {entry.verdict}: {reason}")
        if entry.error:
            say(f"  error: {entry.error}")
        if entry.verdict == "fail" and self.sending.storage is not None:
            print("  not stored: its verdict is fail; look at it, then send it by hand or run with other --qa-limits")
        elif not entry.error:
            self.sending.add(Path(entry.output).name)

    def end(self, results: "list[Converted]") -> None:
        """Wait for the PACS and write the report of these results."""
        self.results[:] = results
        self.faults.extend(self.sending.finish())
        if self.page is not None and self.results:
            self.faults.extend(self._report(self.page))

    def finish(self, checked: bool) -> None:
        """Print the counts and end the command with its exit code."""
        counts = {status: sum(r.status == status for r in self.results) for status in STATUSES}
        print(", ".join(f"{n} {status}" for status, n in counts.items()))
        if checked and any(r.verdict for r in self.results):
            found = {verdict: sum(r.verdict == verdict for r in self.results) for verdict in VERDICTS}
            print("verdicts: " + ", ".join(f"{n} {verdict}" for verdict, n in found.items()))
        finish([r.error for r in self.results if r.error], len(self.results), self.faults)

    def _report(self, page: Path) -> list[str]:
        """Write the report; returns the error if it cannot be written."""
        from medgen.reports.conversion import conversion_report

        try:
            health = [f"When the model was saved: {text}" for text in self.health]
            conversion_report([asdict(result) for result in self.results], page, notes=self.notes, warnings=health)
            say(f"report: {page}")
            return []
        except InputError as error:
            return [str(error)]


def _end_watch_on_signals(folder: Path) -> None:
    """Let SIGINT and SIGTERM end --watch after the cases under way."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # a script's background job ignores SIGINT
            signal.signal(number, interrupted)
    say(f"watching {folder}; Ctrl-C ends it")


def interrupted(*_: object) -> None:
    """Handler of a signal that ends --watch well; the next ends it at once, which loses no more than a kill does."""

    def end(number: int, _: object) -> None:
        os._exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    raise KeyboardInterrupt


def preview(
    model: Path, source: Path, series: str | None, rules: Path | None, watch: bool, from_pacs: str | None
) -> None:
    """The cases of ``source`` on the console; nothing is read but headers, and nothing is written."""
    from medgen.checkpoint import read_info
    from medgen.inference.inputs import find_scans, scan_grids
    from medgen.inference.series import load_rules

    if watch or from_pacs is not None:
        raise InputError(
            "option-dry-run-conflict", "--dry-run lists what lies in a folder; leave --watch and --from-pacs out"
        )
    _, settings = read_info(model)
    chosen = None if rules is None else load_rules(rules)
    scans = find_scans(source, settings.data.sources, series=series, rules=chosen)
    faults = []
    for i, scan in enumerate(scans, 1):
        try:
            if scan.fault:
                raise InputError("input-scan-faulty", scan.fault)
            grid = scan_grids(scan, series)[0]
            what = scan.files[0] if scan.series is None else f"{scan.files[0]}, {scan.series.describe()}"
            say(f"[{i}/{len(scans)}] {scan.case}: {what} [{grid.describe()}]")
            for note in scan.notes:
                say(f"  note: {note}")
        except InputError as error:
            faults.append(str(error))
            say(f"[{i}/{len(scans)}] {scan.case}: not convertible")
    say(f"{len(scans) - len(faults)} to convert; nothing was converted")
    finish(faults, len(scans))
