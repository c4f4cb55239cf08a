"""``medgen translate``: scans through a model."""

import os
import signal
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medgen.commands.shared import Overwrite, Ray, Workers, cluster_of, finish, interruptible, kept_in, pick_device
from medgen.errors import InputError

if TYPE_CHECKING:
    from medgen.inference.job import Converted

SYNTHETIC = "Converted images are synthetic and not for diagnosis."


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
    from medgen.commands.pacs import Sending, check_pacs, from_server
    from medgen.inference.cohort.run import convert
    from medgen.inference.cohort.verdict import checks_for
    from medgen.inference.deidentified_output import opened
    from medgen.inference.job import Converted
    from medgen.inference.series import load_rules
    from medgen.io.names import say
    from medgen.io.paths import ENDINGS, has_ending

    check_pacs(from_pacs, query or (), to_pacs, input, output, format, watch)
    if dry_run:
        return preview(model, input, series, rules, watch, from_pacs)
    apart = opened(input, output, identity_dir, shift_dates, deidentify)
    cluster = cluster_of(ray, workers, device)
    loaded = load_model(model, "cpu" if cluster else pick_device(device), target=target)
    limits = checks_for(loaded, qa_limits, segmenter, pick_device(device))
    results: list[Converted] = []

    def show(entry: Converted, i: int, n: int) -> None:
        results.append(entry)
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
        if entry.verdict == "fail" and to_pacs is not None:
            print("  not stored: its verdict is fail; look at it, then send it by hand or run with other --qa-limits")
        elif not entry.error:
            sending.add(Path(entry.output).name)

    if watch:
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as a script's job in the background has it
                signal.signal(number, interrupted)
        say(f"watching {input}; Ctrl-C ends it")
    chosen = None if rules is None else load_rules(rules)
    contrasts = loaded.settings.data
    sending = Sending(to_pacs, output, contrasts.targets, None if apart is None else apart.folder)
    faults: list[str] = []
    notes = [f"Model: {model}, step {loaded.info.step}, weights {loaded.info.weights_sha256[:12]}.", SYNTHETIC]

    def end(found: list[Converted]) -> None:
        results[:] = found
        faults.extend(sending.finish())
        if report and results and not has_ending(output, ENDINGS):
            page = (output if apart is None else apart.folder) / "report.html"
            faults.extend(_report(results, page, notes, loaded.info.health))

    with interruptible(kept_in(output)):
        try:
            with from_server(from_pacs, query or (), input, contrasts.sources, series, chosen, overwrite) as retrieved:
                convert(
                    loaded,
                    input if retrieved is None else retrieved,
                    output,
                    format=format,
                    series=series,
                    rules=chosen,
                    memory_gb=memory_gb,
                    watch=settle_seconds if watch else None,
                    checks=limits,
                    qa_report_sr=qa_report_sr,
                    private=apart,
                    cluster=cluster,
                    overwrite=overwrite,
                    done=show,
                    finish=end,
                )
        except InputError as error:
            if not results:
                raise
            faults.append(str(error))  # of the run itself: the manifest could not be written at its end
            end(results)
        except BaseException:
            sending.drop()
            raise
    counts = {status: sum(r.status == status for r in results) for status in ("converted", "skipped", "failed")}
    print(", ".join(f"{n} {status}" for status, n in counts.items()))
    if limits is not None and any(r.verdict for r in results):
        found = {status: sum(r.verdict == status for r in results) for status in ("pass", "review", "fail")}
        print("verdicts: " + ", ".join(f"{n} {status}" for status, n in found.items()))
    finish([r.error for r in results if r.error], len(results), faults)


def _report(results: "list[Converted]", page: Path, notes: list[str], health: list[str]) -> list[str]:
    """Write the page of a run; what hinders it."""
    from medgen.io.names import say
    from medgen.reports.conversion import conversion_report

    try:
        unwell = [f"When the model was saved: {text}" for text in health]
        conversion_report([asdict(result) for result in results], page, notes=notes, warnings=unwell)
        say(f"report: {page}")
        return []
    except InputError as error:
        return [str(error)]


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
    from medgen.io.names import say

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
