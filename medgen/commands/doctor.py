"""``medgen doctor``: the installation, and the alignment of the pairs of a cohort."""

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from medgen.commands.json_output import add_result
from medgen.commands.progress import case_bar
from medgen.commands.shared import finish, names_of
from medgen.errors import InputError, reason
from medgen.io.names import print_line
from medgen.types import Case

OPTIONAL = {
    "torchio": "required by sampling.artefacts: pip install 'medgen[artefacts]'",
    "pylibjpeg": "required for compressed DICOM: pip install 'medgen[dicom]'",
    "ray": "required by --ray: pip install 'medgen[ray]'",
    "pynetdicom": "required by --from-pacs and --to-pacs: pip install 'medgen[pacs]'",
    "onnxruntime": "required by medgen export onnx and ONNX models: pip install 'medgen[onnx]'",
    "fastapi": "required by medgen serve: pip install 'medgen[server]'",
    "huggingface_hub": "required by hub:OWNER/NAME: pip install 'medgen[hub]'",
}


def doctor(
    cohort: Annotated[
        Path | None, typer.Argument(help="A cohort of pairs: measure how well source and target are aligned.")
    ] = None,
    sources: Annotated[str, typer.Option(help="Comma-separated source contrasts, as data.sources.")] = "source",
    targets: Annotated[str, typer.Option(help="Comma-separated target contrasts, as data.targets.")] = "target",
) -> None:
    """Show versions, devices and missing optional packages; or, with COHORT, the alignment of its pairs."""
    if cohort is None:
        _installation()
    else:
        _alignment(cohort, names_of(sources, "--sources"), names_of(targets, "--targets"))


def _installation() -> None:
    import torch

    from medgen.environment import git_commit, versions

    found = versions()
    add_result(versions=found, commit=git_commit(), threads=torch.get_num_threads(), cuda=torch.cuda.device_count())
    for name, version in found.items():
        print(f"{name:20s} {version}")
    print(f"{'commit':20s} {git_commit() or 'not a checkout'}")
    print(f"{'threads':20s} {torch.get_num_threads()}")
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        print(f"{f'cuda:{i}':20s} {properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    if not torch.cuda.is_available():
        print(f"{'cuda':20s} not available; training and conversion run on the CPU")
    for module, use in OPTIONAL.items():
        if importlib.util.find_spec(module) is None:
            print(f"{module:20s} missing; {use}")


def _alignment(cohort: Path, sources: tuple[str, ...], targets: tuple[str, ...]) -> None:
    from medgen.data.cohort.content import content_hash
    from medgen.data.cohort.layouts import shortened_list
    from medgen.data.cohort.read import read_cohort
    from medgen.io.read import read_volume
    from medgen.qa.measures.misalignment import block_mm, misalignment

    read = read_cohort(cohort, sources=sources, targets=targets)
    pairs = [case for case in read.cases if case.source and case.target]
    if not pairs:
        raise InputError(
            "cohort-no-pairs", f"{cohort} has no case with both a source and a target; alignment is measured on pairs"
        )
    alone = [case.name for case in read.cases if not (case.source and case.target)]
    if alone:
        print_line(f"warning: not measured, because source or target is missing: {shortened_list(alone)}")
    failures, apart, same, unmeasured = [], [], [], []
    measured = {}
    for case in _with_bar(pairs):
        try:
            source, target = read_volume(case.source[0]), read_volume(case.target[0])
            if content_hash(source.data) == content_hash(target.data):
                same.append(case.name)
            found = misalignment(source, target)
        except (InputError, MemoryError) as error:
            failures.append(f"{case.name}: {reason(error)}")
            continue
        if found is None:
            side = block_mm(source)
            print_line(f"{case.name}: not measured: no block of {side:.0f} mm lies in the body in both images")
            unmeasured.append(case.name)
            continue
        measured[case.name] = found
        beyond = found.median > found.limit
        if beyond:
            apart.append(case.name)
        print_line(
            f"{case.name}: median {found.median:.1f} mm, 90th percentile {found.p90:.1f} mm in {found.blocks} blocks"
            + (f"; misaligned (limit {found.limit:g} mm)" if beyond else "")
        )
    if same:
        print_line(f"warning: source and target of {shortened_list(same)} are the same image; replace one of them")
    if unmeasured:
        print_line(f"warning: {len(unmeasured)} of {len(pairs)} pairs were not measured; look at them in a viewer")
    if apart:
        print_line(
            f"warning: {len(apart)} of {len(pairs)} pairs are misaligned; check that none is mirrored or of another "
            "patient, then register them, or train with method.name=reggan, which learns the deformation (for CT: "
            "config ct_contrast_reggan)"
        )
    add_result(alignment_mm=measured, misaligned=apart, same_image=same, unmeasured=unmeasured)
    finish(failures, len(pairs))


def _with_bar(pairs: Sequence[Case]) -> Iterator[Case]:
    """The pairs one by one, with a progress bar."""
    with case_bar("measuring") as bar:
        for number, case in enumerate(pairs):
            bar(number, len(pairs))
            yield case
