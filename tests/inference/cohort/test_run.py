"""From a tiny training to converted cohorts, for models of several contrasts and of slices."""

import json
import os
import shutil
import signal
import threading
from pathlib import Path
from typing import Literal

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from dicom_series import stored, write_ct
from refusal import refused
from safetensors.torch import load_file
from small import SMALL_METHOD, known, make_model, merged, paired_only, small_settings, translates, write_cohort

from medgen.checkpoint import load_model
from medgen.commands.translate import stop_watching
from medgen.config import parse_settings
from medgen.errors import InputError
from medgen.inference import convert_case as module
from medgen.inference import inputs, output, plan
from medgen.inference.cohort import watch
from medgen.inference.cohort.prefetch import overlapped
from medgen.inference.cohort.run import convert
from medgen.inference.series import Rule, Rules
from medgen.methods import method_class, method_names, settings_class
from medgen.training.loop import train


def tiny(cohort, name, method=None, **sections):
    smaller = {"generator": {"hidden": 4}, "adversary": {"pool": 2}, "classifier_layers": 1}
    given = known(settings_class(name), merged(merged(SMALL_METHOD, smaller), method or {}))
    values = {
        "data": {
            "root": str(cohort),
            "paired": paired_only(name),
            "validation": 0.25,
            "domains": ["source", "target"] if name == "multi_domain" else [],
            **sections.pop("data", {}),
        },
        "intensity": {"source": {"outside": "preserve"}},
        "sampling": {"patch": [16, 16, 16], "flip": ["x"], "rotate": 5, **sections.pop("sampling", {})},
        "method": {**given, "name": name},
        "train": {"steps": 2, "validate_every": 2},
        **sections,
    }
    return parse_settings(values, "test")


def phantoms(folder, *names):
    """Small scans on disk, all different."""
    folder.mkdir(parents=True, exist_ok=True)
    for n, name in enumerate(names):
        scan = np.random.default_rng(n).integers(-1000, 400, (10, 11, 12)).astype(np.int16)
        sitk.WriteImage(sitk.GetImageFromArray(scan), str(folder / name))
    return folder


def same_grids(made, inputs):
    for path in inputs.iterdir():
        a, b = nib.load(path), nib.load(made / path.name)
        assert a.shape == b.shape and np.array_equal(a.affine, b.affine) and b.get_data_dtype() == np.int16


def test_two_contrasts_to_one_with_pix2pix(tmp_path):
    names = {"sources": ("t1", "flair"), "targets": ("t2",)}
    cohort = write_cohort(tmp_path / "cohort", **names)
    (cohort / "flair/case3.nii.gz").unlink()
    lines = []
    best = train(tiny(cohort, "pix2pix", data=names), tmp_path / "run", say=lines.append)
    assert any("case3 lacks flair" in line for line in lines)
    model = load_model(best)
    assert len(model.info.source_range) == len(model.info.training_scans) == 2
    results = convert(model, cohort, tmp_path / "out")
    assert [r.status for r in results] == ["converted", "converted", "converted", "failed"]
    assert "case3 has no flair" in results[3].error
    (cohort / "t1/case3.nii.gz").unlink()
    same_grids(tmp_path / "out", cohort / "t1")
    assert [r.status for r in convert(model, cohort, tmp_path / "out")] == ["skipped"] * 3
    (cohort / "flair/case1.nii.gz").write_bytes((cohort / "flair/case0.nii.gz").read_bytes())
    assert [r.status for r in convert(model, cohort, tmp_path / "out")] == ["skipped", "converted", "skipped"]


def test_two_contrasts_to_two_with_cyclegan(tmp_path):
    names = {"sources": ("t1", "flair"), "targets": ("t2", "pd")}
    cohort = write_cohort(tmp_path / "cohort", cases=6, unpaired=True, **names)
    model = load_model(train(tiny(cohort, "cyclegan", data=names), tmp_path / "run", say=lambda _: None))
    results = convert(model, cohort, tmp_path / "out")
    assert [r.status for r in results] == ["converted"] * 3
    for name in ("t2", "pd"):
        same_grids(tmp_path / "out" / name, cohort / "t1")
    assert set(json.loads((tmp_path / "out/manifest.json").read_text())["cases"]) == {"case0", "case2", "case4"}
    (tmp_path / "out/pd/case2.nii.gz").unlink()
    assert [r.status for r in convert(model, cohort, tmp_path / "out")] == ["skipped", "converted", "skipped"]
    with refused("output-file-for-many-targets", names="t2, pd"):
        convert(model, [(cohort / "t1/case0.nii.gz", cohort / "flair/case0.nii.gz")], tmp_path / "one.nii.gz")


def test_contrasts_on_different_grids_are_refused_in_training_and_reported_in_conversion(tmp_path):
    names = {"sources": ("t1", "flair"), "targets": ("t2",)}
    cohort = write_cohort(tmp_path / "cohort", **names)
    scan = np.random.default_rng(0).integers(-1000, 400, (10, 11, 12)).astype(np.int16)
    nib.save(nib.Nifti1Image(scan, np.diag([4.0, 4, 2, 1])), cohort / "flair/case1.nii.gz")
    with refused("pair-grid-differs", names=("case1", "data.align")):
        train(tiny(cohort, "pix2pix", data=names), tmp_path / "run", say=lambda _: None)
    with refused("pair-grid-differs", names="case1"):
        train(
            tiny(cohort, "cyclegan", {"weight_identity": 0.0, "generator": {"residual": False}}, data=names),
            tmp_path / "run",
            say=lambda _: None,
        )
    aligned = tiny(cohort, "pix2pix", data={**names, "align": "resample", "validation": 0.0})
    train(aligned, tmp_path / "run", say=lambda _: None)
    results = convert(make_model(small_settings(data=names)), cohort, tmp_path / "out")
    assert [r.status for r in results] == ["converted", "failed", "converted", "converted"]
    assert "10 x 11 x 12" in results[1].error


def test_contrasts_in_different_frames_of_reference_are_converted_with_a_warning(tmp_path):
    names = {"sources": ("t1", "flair"), "targets": ("t2",)}
    for contrast in names["sources"]:
        write_ct(tmp_path / "in" / contrast / "case0", stored(20, 20, 24), FrameOfReferenceUID="1.1")
        write_ct(tmp_path / "in" / contrast / "case1", stored(20, 20, 24), FrameOfReferenceUID=f"1.{len(contrast)}")
    warnings = [
        [text for text in result.warnings if "flair/case1 have different frames of reference" in text]
        for result in convert(make_model(small_settings(data=names)), tmp_path / "in", tmp_path / "out")
        if result.status == "converted"
    ]
    assert [len(texts) for texts in warnings] == [0, 1]


def takes_slices(name):
    needs_volumes = settings_class(name).model_fields["spatial_dims"].annotation == Literal[3]
    return translates(name) and not settings_class(name).needs_classes and not needs_volumes


@pytest.mark.parametrize("name", filter(takes_slices, method_names()))
def test_slabs_of_three_slices(name, tmp_path):
    cohort = write_cohort(tmp_path / "cohort", cases=6, shape=(20, 24, 13), unpaired=not paired_only(name))
    settings = tiny(cohort, name, method={"spatial_dims": 2}, sampling={"patch": [16, 16, 3]})
    target = "target" if name == "multi_domain" else None
    model = load_model(train(settings, tmp_path / "run", say=lambda _: None), target=target)
    assert model.generator(torch.zeros(1, 3, 16, 16)).shape == (1, 3, 16, 16)
    assert {r.status for r in convert(model, cohort / "source", tmp_path / "out")} == {"converted"}
    same_grids(tmp_path / "out", cohort / "source")


def test_slices_of_two_contrasts_resume_to_the_same_weights(tmp_path):
    names = {"sources": ("t1", "flair"), "targets": ("t2",)}
    cohort = write_cohort(tmp_path / "cohort", **names)

    def settings(steps):
        flat = {"steps": steps, "decay_from": 1.0, "checkpoint_every": 1, "validate_every": 2}
        options = {"data": names, "sampling": {"patch": [1, 16, 16], "gamma": 0.2}, "train": flat}
        return tiny(cohort, "pix2pix", method={"spatial_dims": 2}, **options)

    train(settings(4), tmp_path / "whole", say=lambda _: None)
    train(settings(2), tmp_path / "parts", say=lambda _: None)
    train(settings(4), tmp_path / "parts", resume=True, say=lambda _: None)
    whole, parts = (load_file(tmp_path / run / "last/training-0.safetensors") for run in ("whole", "parts"))
    assert whole.keys() == parts.keys() and all(torch.equal(whole[k], parts[k]) for k in whole)


def test_patches_that_are_no_slabs_or_do_not_fit(tmp_path):
    cohort = write_cohort(tmp_path / "cohort", cases=2)
    for patch, code in (([16, 16, 16], "config-slab-side-ambiguous"), ([18, 16, 3], "config-patch-multiple")):
        with refused(code, names="sampling.patch"):
            train(tiny(cohort, "pix2pix", {"spatial_dims": 2}, sampling={"patch": patch}), tmp_path / "run")


def test_methods_see_the_labels_and_the_model_keeps_their_names(tmp_path, monkeypatch):
    cohort = write_cohort(tmp_path / "cohort", labels=True)
    seen = []
    step = method_class("pix2pix").step

    def watched(self, batch, update):
        seen.append((batch["labels"].shape, batch["labels"].dtype))
        return step(self, batch, update)

    monkeypatch.setattr(method_class("pix2pix"), "step", watched)
    settings = tiny(cohort, "pix2pix", data={"labels": True, "classes": 3})
    info = load_model(train(settings, tmp_path / "run", say=lambda _: None)).info
    assert seen == [((2, 1, 16, 16, 16), torch.int64)] + [((1, 1, 16, 16, 16), torch.int64)] * 2
    assert info.training_data["classes"] == 3
    assert info.training_data["labels"] == {"background": 0, "body": 1, "organ": 2}


def test_unexpected_errors_are_reported_and_the_other_cases_converted(model, tmp_path, monkeypatch):
    scans = phantoms(tmp_path / "in", "a.nii.gz", "b.nii.gz", "c.nii.gz", "d.nii.gz")

    def broken(stage, name, found):
        def call(*given, **options):
            if name in str(found(given)):
                raise TypeError("a bug")
            return stage(*given, **options)

        return call

    for where, stage, name, found in (
        (inputs, "read_volume", "a.nii", lambda given: given[0]),
        (module, "translate_case", "b.nii", lambda given: given[1][0].path),
        (output, "write_volume", "c.nii", lambda given: given[0]),
    ):
        monkeypatch.setattr(where, stage, broken(getattr(where, stage), name, found))
    results = convert(model, scans, tmp_path / "out")
    assert [r.status for r in results] == ["failed"] * 3 + ["converted"]
    assert all(
        f"{name}.nii.gz: unexpected error" in r.error and "TypeError" in r.error
        for name, r in zip("abc", results, strict=False)
    )
    monkeypatch.undo()
    assert [r.status for r in convert(model, scans, tmp_path / "out")] == ["converted"] * 3 + ["skipped"]


def test_a_moved_output_folder_is_still_done(model, tmp_path):
    scans = phantoms(tmp_path / "in", "a.nii.gz", "a.mha", "b.nii.gz")
    assert [r.status for r in convert(model, scans, tmp_path / "out")] == ["converted"] * 3
    (tmp_path / "out").rename(tmp_path / "moved")
    assert [r.status for r in convert(model, scans, tmp_path / "moved")] == ["skipped"] * 3


def test_results_whose_scans_are_gone_are_named(model, tmp_path, caplog):
    phantoms(tmp_path / "in", "a.nii.gz", "b.nii.gz")
    convert(model, tmp_path / "in", tmp_path / "out")
    (tmp_path / "in" / "b.nii.gz").unlink()
    caplog.clear()
    convert(model, tmp_path / "in", tmp_path / "out")
    assert "1 result(s) of earlier runs" in caplog.text and "(b.nii.gz)" in caplog.text
    (tmp_path / "out" / "b.nii.gz").unlink()
    caplog.clear()
    convert(model, tmp_path / "in", tmp_path / "out")
    assert not caplog.text


def test_another_scan_of_the_name_does_not_replace_an_earlier_output(model, tmp_path):
    """p1 is archived and p2 arrives: each is the case CT when it is alone."""
    source, out = tmp_path / "in", tmp_path / "out"
    write_ct(source / "p1" / "CT", stored(4, 12, 13))
    (first,) = convert(model, source, out)
    shutil.move(source / "p1", tmp_path / "archive")
    write_ct(source / "p2" / "CT", stored(4, 12, 13) + 1)
    before = sorted(path.read_bytes() for path in (out / "CT").iterdir())
    for _ in range(2):
        (second,) = convert(model, source, out)
        assert first.case == second.case == "CT"
        assert second.status == "failed" and str(source / "p1") in second.error and str(out) in second.error
    assert sorted(path.read_bytes() for path in (out / "CT").iterdir()) == before
    assert json.loads((out / "manifest.json").read_text())["cases"]["CT"]["input_sha256"] == first.input_sha256


def test_a_scan_in_another_format_leaves_the_earlier_output_and_its_record(model, tmp_path):
    source, out = phantoms(tmp_path / "in", "a.nii.gz"), tmp_path / "out"
    convert(model, source, out)
    (source / "a.nii.gz").unlink()
    phantoms(source, "other.mha", "a.mha")
    (source / "other.mha").unlink()
    for status in ("converted", "skipped"):
        (result,) = convert(model, source, out)
        assert result.status == status
    cases = json.loads((out / "manifest.json").read_text())["cases"]
    assert sorted(Path(case["output"]).name for case in cases.values()) == ["a.mha", "a.nii.gz"]


def test_a_corrected_scan_at_the_same_path_is_converted_again(model, tmp_path):
    source = phantoms(tmp_path / "in", "a.nii.gz")
    convert(model, source, tmp_path / "out")
    sitk.WriteImage(sitk.ReadImage(str(source / "a.nii.gz")) + 1, str(source / "a.nii.gz"))
    assert [r.status for r in convert(model, source, tmp_path / "out")] == ["converted"]


def test_two_scans_of_one_name_and_format_do_not_undo_each_other(model, tmp_path):
    scans = phantoms(tmp_path / "in", "a.nii.gz", "a.nii")
    for status in ("converted", "skipped"):
        first, second = convert(model, scans, tmp_path / "out", format="nifti")
        assert (first.status, second.status) == (
            status,
            "failed",
        ) and f"{scans / 'a.nii'} have the same case name" in second.error


def test_bad_names_and_sizes_are_refused_before_memory_is_taken(model, tmp_path, monkeypatch):
    scans = phantoms(tmp_path / "in", "a\x1b[2J.nii.gz", "con.nii.gz", "large.nii.gz", "n" * 230 + ".nii.gz")
    monkeypatch.setattr(plan, "SMALL_GB", 0)
    monkeypatch.setattr(inputs, "read_volume", None)
    results = convert(model, scans, tmp_path / "out", memory_gb=9e-6)
    for result, words in zip(results, ("control", "device", "above half of --memory-gb", "longer than"), strict=True):
        assert result.status == "failed" and words in result.error
    assert {p.name for p in (tmp_path / "out").iterdir()} == {".medgen.record", "manifest.json"}


def test_arriving_scans_are_converted_until_interrupted(model, tmp_path):
    scans, seen = phantoms(tmp_path / "in", "a.nii.gz"), []

    def done(entry, number, count):
        seen.append((entry.case, entry.status))
        if len(seen) == 1:
            (scans / "b.nii.gz").write_text("no scan")
        elif len(seen) == 2:
            (scans / "b.nii.gz").write_bytes((scans / "a.nii.gz").read_bytes())
        else:
            raise KeyboardInterrupt

    results = convert(model, scans, tmp_path / "out", watch=0.1, done=done)
    assert seen == [("a", "converted"), ("b", "failed"), ("b", "converted")]
    assert [(r.case, r.status) for r in results] == [("a", "converted"), ("b", "converted")], "the last of each"
    cases = json.loads((tmp_path / "out/manifest.json").read_text())["cases"]
    assert {case: record["status"] for case, record in cases.items()} == {"a": "converted", "b": "converted"}
    with refused("output-inside-input"):
        convert(model, scans, scans / "out", watch=0.1)


@pytest.mark.parametrize("where", ["translating", "reporting"])
def test_an_interrupted_run_reports_the_cases_being_written(model, tmp_path, monkeypatch, where):
    scans, seen, going = phantoms(tmp_path / "in", *(f"{name}.nii.gz" for name in "abcde")), [], threading.Event()
    translate, write = module.translate_case, module.write_outputs

    def stopped(model, volumes, **options):
        if where == "translating" and volumes[0].path.name == "c.nii.gz":
            threading.Timer(0.2, going.set).start()
            raise KeyboardInterrupt
        return translate(model, volumes, **options)

    def slow(targets, *given):
        if targets[0].name != "a.nii.gz":
            going.wait(20)
        return write(targets, *given)

    def done(entry, number, count):
        seen.append(entry.case)
        if where == "reporting" and not going.is_set():
            threading.Timer(0.2, going.set).start()
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "translate_case", stopped)
    monkeypatch.setattr(module, "write_outputs", slow)
    monkeypatch.setattr("medgen.inference.cohort.cases.overlapped", lambda *given: overlapped(*given[:-1], 3))
    results = convert(model, scans, tmp_path / "out", watch=0.1, done=done)
    expected = ["a", "b"] if where == "translating" else ["a", "b", "c"]
    assert seen == [r.case for r in results] == expected and {r.status for r in results} == {"converted"}
    assert list(json.loads((tmp_path / "out/manifest.json").read_text())["cases"]) == expected


def test_a_second_interrupt_of_the_command_ends_at_once(monkeypatch):
    ended, kept = [], {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr(os, "_exit", ended.append)
    try:
        with pytest.raises(KeyboardInterrupt):
            stop_watching()
        signal.raise_signal(signal.SIGINT)
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
    assert ended == [128 + signal.SIGINT]


def test_a_failed_case_is_retried_and_reported_once(model, tmp_path, monkeypatch):
    scans, seen, tries, write = phantoms(tmp_path / "in", "a.nii.gz"), [], [], module.write_outputs

    def full(targets, *given):
        tries.append(targets)
        if len(tries) < 4:
            raise InputError(
                "output-unwritable", "a.nii.gz cannot be written (No space left on device); choose another place"
            )
        return write(targets, *given)

    def done(entry, number, count):
        seen.append(entry.status)
        if entry.status == "converted":
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_outputs", full)
    monkeypatch.setattr(watch, "RETRY_PAUSES", (0.01,))
    results = convert(model, scans, tmp_path / "out", watch=0.1, done=done)
    assert seen == ["failed", "converted"] and len(tries) == 4
    assert [(r.case, r.status) for r in results] == [("a", "converted")]


def test_a_second_scan_of_a_name_leaves_the_record_of_the_first(tmp_path):
    write_cohort(tmp_path / "one", 1)
    (scan,) = (tmp_path / "one/source").iterdir()
    other = tmp_path / "two" / scan.name
    other.parent.mkdir()
    shutil.copy(scan, other)
    results = convert(make_model(), [scan, other], tmp_path / "out")
    assert [r.status for r in results] == ["converted", "failed"] and "rename one" in results[1].error
    kept = json.loads((tmp_path / "out/manifest.json").read_text())["cases"]
    assert sorted(record["status"] for record in kept.values()) == ["converted", "failed"]
    assert kept[results[0].case]["input"] == str(scan)


def test_nothing_is_written_into_the_input_or_of_a_bad_output(tmp_path):
    write_cohort(tmp_path, 1)
    before = sorted(tmp_path.rglob("*"))
    with refused("output-is-input"):
        convert(make_model(), tmp_path / "source", tmp_path / "source")
    (tmp_path / "file").write_text("")
    with refused("output-is-file"):
        convert(make_model(), tmp_path / "source", tmp_path / "file")
    (tmp_path / "file").unlink()
    assert sorted(tmp_path.rglob("*")) == before


def test_a_change_of_voxels_beside_their_header_is_seen(model, tmp_path):
    scans = tmp_path / "in"
    scans.mkdir()
    for ending in ("mhd", "nhdr"):
        scan = np.random.default_rng(0).integers(-1000, 400, (10, 11, 12)).astype(np.int16)
        sitk.WriteImage(sitk.GetImageFromArray(scan), str(scans / f"{ending}.{ending}"), useCompression=False)
    for path, status in ((None, ["converted"] * 2), (None, ["skipped"] * 2), ("mhd.raw", ["converted", "skipped"])):
        if path:
            content = bytearray((scans / path).read_bytes())
            content[0] ^= 1
            (scans / path).write_bytes(content)
        assert [r.status for r in convert(model, scans, tmp_path / "out")] == status


def test_names_equal_but_for_case_or_unicode_form_are_refused(model, tmp_path):
    scans = phantoms(tmp_path / "in", "case.nii.gz", "CASE.nii.gz", "M\u00fcller.nii.gz", "Mu\u0308ller.nii.gz")
    results = convert(model, scans, tmp_path / "out")
    assert sorted(r.status for r in results) == ["converted", "converted", "failed", "failed"]
    assert all("have the same case name, ignoring letter case" in r.error for r in results if r.error)


def test_a_format_that_the_output_is_not_named_as(model, tmp_path):
    scans = phantoms(tmp_path / "in", "a.nii.gz")
    for format in ("dicom", "mha"):
        with refused("output-name-format-differs"):
            convert(model, scans / "a.nii.gz", tmp_path / "out.nii.gz", format=format)
    for name, format in (("out.nii", "nifti"), ("other.mhd", "mha")):
        (result,) = convert(model, scans / "a.nii.gz", tmp_path / name, format=format)
        assert result.status == "converted" and (tmp_path / name).exists()
    (tmp_path / "third.manifest.json").write_text('{"of": "the user"}')
    with refused("output-exists", names="third.manifest.json"):
        convert(model, scans / "a.nii.gz", tmp_path / "third.nii")


def test_a_selection_of_series_is_never_ignored(model, tmp_path):
    scans, rules = phantoms(tmp_path / "in", "a.nii.gz"), Rules(include=[Rule(modality="CT")])
    for options, code, names in (
        ({"series": "1", "rules": rules}, "option-rules-with-series", ("--rules", "--series")),
        ({"rules": rules}, "option-series-not-dicom", "--rules"),
        ({"series": "1"}, "option-series-not-dicom", "--series"),
    ):
        with refused(code, names=names):
            convert(model, scans, tmp_path / "out", **options)
    with refused("option-rules-several-contrasts"):
        inputs.find_scans(scans, ["t1", "t2"], rules=rules)


def test_the_nifti_header_marks_a_conversion_as_synthetic(model, tmp_path):
    convert(model, phantoms(tmp_path / "in", "a.nii.gz", "b.mha"), tmp_path / "out", format="nifti")
    for name in "ab":
        description = bytes(nib.load(tmp_path / "out" / f"{name}.nii.gz").header["descrip"]).decode()
        assert description.startswith("SYNTHETIC, not for primary diagnosis")


def test_files_of_others_in_the_output_folder_are_kept(model, tmp_path):
    out = tmp_path / "out"
    for folder in (".notes.old", ".medgen-tools", ".part-x", ".work.tmp", "notes"):
        (out / folder).mkdir(parents=True)
        (out / folder / "mine.txt").write_text("mine")
    (out / ".cfg.old").write_text("mine")
    before = sorted(out.rglob("*"))
    convert(model, phantoms(tmp_path / "in", "a.nii.gz"), out, overwrite=True)
    assert set(before) <= set(out.rglob("*"))


def test_unknown_output_formats_and_unreadable_inputs_are_reported(model, tmp_path):
    scans = phantoms(tmp_path / "in", "a.nii.gz", "b.nii.gz", "case..nii.gz")
    for ending in (".hdr", ".img"):
        (scans / f"pair{ending}").write_bytes(b"x" * 348)
    for name in ("out.dcm", "out.tiff"):
        with refused("output-extension-unknown"):
            convert(model, scans, tmp_path / name)
    results = convert(model, scans, tmp_path / "out")
    assert [r.status for r in results] == ["converted", "converted", "failed", "failed"]
    assert "Windows removes" in results[2].error and ".hdr/.img pair" in results[3].error
