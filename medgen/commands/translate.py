"""``medgen translate``: translate a cohort of scans."""

import os
import signal
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medgen.commands.json_output import add_result
from medgen.commands.pacs import Sending, check_pacs, from_server
from medgen.commands.progress import case_bar
from medgen.commands.shared import (
    Overwrite,
    Ray,
    Workers,
    cluster_of,
    finish,
    interruptible,
    kept_in,
    model_names,
    pick_device,
)
from medgen.errors import InputError
from medgen.io.names import print_line

if TYPE_CHECKING:
    from medgen.inference.job import Converted

SYNTHETIC = "Converted images are synthetic and not for diagnosis."
STATUSES = ("converted", "skipped", "failed")
VERDICTS = ("pass", "review", "fail")


def translate(
    model: Annotated[
        Path,
        typer.Argument(
            help="Model folder, e.g. RUN/best, or a name that medgen models lists.", autocompletion=model_names
        ),
    ],
    input: Annotated[
        Path,
        typer.Argument(
            help="A volume, or a folder of volumes or DICOM series; for several contrasts, one subfolder per contrast."
        ),
    ],
    output: Annotated[Path, typer.Argument(help="Output folder; for one input volume, a file name is accepted.")],
    target: Annotated[str | None, typer.Option(help="Target domain, for a model with several.")] = None,
    format: Annotated[
        str | None, typer.Option(help="nifti, mha, nrrd or dicom; default: the format of the input.")
    ] = None,
    series: Annotated[
        str | None, typer.Option(help="DICOM series to use: UID, number or part of its description.")
    ] = None,
    rules: Annotated[
        Path | None, typer.Option(help="YAML file of rules that select DICOM series in a folder of mixed studies.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    memory_gb: Annotated[
        float | None, typer.Option(min=0.01, max=1e6, help="Memory limit of a forward pass in GiB.")
    ] = None,
    qa_limits: Annotated[
        str,
        typer.Option(
            help="Thresholds of the structure check: auto (by model), general, ct_contrast, a YAML file, or none."
        ),
    ] = "auto",
    segmenter: Annotated[
        str | None,
        typer.Option(help="Segmenter of anatomy and lesions for the structure check; see medgen evaluate --help."),
    ] = None,
    qa_report_sr: Annotated[
        bool,
        typer.Option("--qa-report-sr", help="Write each verdict as a DICOM structured report to OUTPUT/verdicts."),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="List the scans that would be converted and those that cannot be; write nothing."
        ),
    ] = False,
    report: Annotated[bool, typer.Option(help="Write report.html to the output folder.")] = True,
    watch: Annotated[
        bool, typer.Option("--watch", help="Watch the folder INPUT and convert new scans until interrupted.")
    ] = False,
    settle_seconds: Annotated[
        float, typer.Option(min=0.1, help="With --watch: seconds without file changes before a scan is converted.")
    ] = 10.0,
    deidentify: Annotated[
        bool, typer.Option("--deidentify", help="Write de-identified DICOM (PS3.15 basic profile).")
    ] = False,
    identity_dir: Annotated[
        Path | None,
        typer.Option(
            help="With --deidentify: folder for the key and all files that name inputs; default: OUTPUT-private."
        ),
    ] = None,
    shift_dates: Annotated[
        bool,
        typer.Option(
            "--shift-dates", help="With --deidentify: shift dates, by one offset per patient, instead of removing them."
        ),
    ] = False,
    samples: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Translate each scan N times, by noise, dropout or mirroring as the model has it; writes the mean, "
            "and to OUTPUT/deviation the standard deviation.",
        ),
    ] = None,
    ray: Ray = None,
    workers: Workers = None,
    from_pacs: Annotated[
        str | None,
        typer.Option(help="PACS to retrieve from into INPUT: dicom://AET@host:port or https://host/dicom-web."),
    ] = None,
    query: Annotated[
        list[str] | None, typer.Option(help="With --from-pacs: KEY=VALUE that selects studies; repeatable.")
    ] = None,
    to_pacs: Annotated[
        str | None, typer.Option(help="PACS to store the converted series in; addresses as for --from-pacs.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Translate scans; outputs keep the format of the input and its geometry, or its field of view (inference.grid)."""
    from medgen.checkpoint import load_model
    from medgen.inference.check import checks_for
    from medgen.inference.cohort.run import convert
    from medgen.inference.deidentified_output import open_private_folder
    from medgen.inference.series import load_rules
    from medgen.io.paths import ENDINGS, has_ending

    check_pacs(from_pacs, query or (), to_pacs, input, output, format, watch)
    if dry_run:
        return preview(model, input, series, rules, watch, from_pacs)
    private = open_private_folder(input, output, identity_dir, shift_dates, deidentify, overwrite)
    cluster = cluster_of(ray, workers, device)
    loaded = load_model(model, "cpu" if cluster else pick_device(device), target=target, ensembles=True)
    checks = checks_for(loaded, qa_limits, segmenter, pick_device(device))
    if watch:
        _end_watch_on_signals(input)
    chosen = None if rules is None else load_rules(rules)
    data, record = loaded.settings.data, None if private is None else private.folder
    sending = Sending(to_pacs, output, data.targets, record)
    notes = [f"Model: {model}, step {loaded.info.step}, weights {loaded.info.weights_sha256[:12]}.", SYNTHETIC]
    page = (record or output) / "report.html" if report and not has_ending(output, ENDINGS) else None
    run = _Run(sending, page, notes, loaded.info.health)
    with interruptible(kept_in(output)), case_bar("translating") as run.bar:
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
                    samples=samples,
                    overwrite=overwrite,
                    done=run.show,
                    finish=run.end,
                )
        except InputError as error:
            if not run.results:
                raise
            run.faults.append(str(error))  # of the run, e.g. the manifest could not be written at its end
            run.end(run.results)
        except BaseException:
            sending.drop()
            raise
    run.finish(checked=checks is not None)


@dataclass
class _Run:
    """The results of a run: each is printed and sent as it comes; at the end the report is written.

    ``page``: the report's file; None: no report. ``notes`` and ``health`` go into it. ``faults``: errors of the run
    itself, not of one case. ``bar``: is given the number of finished cases and of all.
    """

    sending: Sending
    page: Path | None
    notes: list[str]
    health: list[str]
    results: "list[Converted]" = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    bar: Callable[[int, int], None] = lambda finished, total: None  # noqa: E731

    def show(self, entry: "Converted", i: int, n: int) -> None:
        """Print a result and send its series to the PACS, unless it failed or its verdict is fail."""
        self.results.append(entry)
        time = f"({entry.seconds:.1f} s)" if entry.seconds else ""
        verdict_text = f", {entry.verdict}" if entry.verdict else ""
        print_line(f"[{i}/{n or '?'}] {entry.case}: {entry.status}{verdict_text} {time}")
        for warning in entry.warnings:
            print_line(f"  warning: {warning}")
        for note in entry.notes:
            print_line(f"  note: {note}")
        for finding in entry.findings:
            if not any(warning in finding["text"] for warning in entry.warnings):  # printed above
                print_line(f"  {finding['status']}: {finding['text']}")
        if entry.error:
            print_line(f"  error: {entry.error}")
        if entry.verdict == "fail" and self.sending.storage is not None:
            print(
                "  not stored in the PACS: verdict fail; review the case, then send it manually or change --qa-limits"
            )
        elif not entry.error:
            self.sending.add(Path(entry.output).name)
        self.bar(i, n)

    def end(self, results: "list[Converted]") -> None:
        """Wait for the PACS and write the report of these results."""
        self.results[:] = results
        self.faults.extend(self.sending.finish())
        if self.page is not None and self.results:
            self.faults.extend(self._report(self.page))

    def finish(self, checked: bool) -> None:
        """Print the counts and end the command with its exit code."""
        add_result(cases=self.results)
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
            print_line(f"report: {page}")
            return []
        except InputError as error:
            return [str(error)]


def _end_watch_on_signals(folder: Path) -> None:
    """Let SIGINT and SIGTERM end --watch after the cases under way."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # a script's background job ignores SIGINT
            signal.signal(number, stop_watching)
    print_line(f"watching {folder}; press Ctrl-C to stop")


def stop_watching(*_: object) -> None:
    """Signal handler that ends --watch cleanly. A second signal exits at once, which loses no more than a kill does."""

    def end(number: int, _: object) -> None:
        os._exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    raise KeyboardInterrupt


def preview(
    model: Path, source: Path, series: str | None, rules: Path | None, watch: bool, from_pacs: str | None
) -> None:
    """Print the cases of ``source``. Reads headers only and writes nothing."""
    from medgen.checkpoint import read_info
    from medgen.inference.inputs import find_scans, scan_grids
    from medgen.inference.series import load_rules

    if watch or from_pacs is not None:
        raise InputError(
            "option-dry-run-conflict", "--dry-run lists the scans of a folder; omit --watch and --from-pacs"
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
            location = scan.files[0] if scan.series is None else f"{scan.files[0]}, {scan.series.describe()}"
            print_line(f"[{i}/{len(scans)}] {scan.case}: {location} [{grid.describe()}]")
            for note in scan.notes:
                print_line(f"  note: {note}")
        except InputError as error:
            faults.append(str(error))
            print_line(f"[{i}/{len(scans)}] {scan.case}: not convertible")
    print_line(f"{len(scans) - len(faults)} to convert; nothing was converted")
    finish(faults, len(scans))
