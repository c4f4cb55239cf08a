"""An output folder holds the results of one run; another run is refused, and files of others are never changed."""

import json
import os
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from refusal import refused

from medgen.errors import InputError
from medgen.io.atomic import atomic_folder, atomic_write
from medgen.io.claim import (
    RECORD,
    adding_files,
    check_file_is_not_input,
    check_ours,
    check_output_is_not_input,
    claimed,
    claimed_file,
    record_written,
    remove,
)

RUN = {"command": "test", "seed": 1}


def write(path, text="medgen"):
    with atomic_write(path) as temporary:
        temporary.write_text(text)


def made(folder, *names, about=RUN, **options):
    with claimed(folder, about, **options):
        for name in names:
            write(folder / name)


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


def seen(folder):
    return {name: text for name, text in files(folder).items() if name != RECORD}


def test_files_beside_a_single_output_are_not_replaced_unless_they_belong_to_it(tmp_path):
    header, data = tmp_path / "ct.mhd", tmp_path / "ct.zraw"
    data.write_text("of the user")
    for overwrite in (False, True):
        with refused("output-exists", names="ct.zraw"), claimed_file(header, data, overwrite=overwrite):
            pass
    header.write_text("header")
    with claimed_file(header, data, overwrite=True):
        pass
    with refused("output-exists", names="ct.mhd"), claimed_file(header, data):
        pass


def test_same_run_resumes_and_another_is_refused(tmp_path):
    out = tmp_path / "out"
    made(out, "a", "sub/b")
    made(out, "a", "c")
    with refused("folder-not-empty", names=("seed", "--overwrite")):
        made(out, about={**RUN, "seed": 2})
    assert seen(out) == {"a": "medgen", "sub/b": "medgen", "c": "medgen"}
    made(out, "d", about={**RUN, "seed": 2}, overwrite=True)
    assert seen(out) == {"d": "medgen"} and not (out / "sub").exists()


def test_files_changed_or_added_by_others_are_kept(tmp_path):
    out = tmp_path / "out"
    made(out, "a", "b", "sub/c")
    (out / "a").write_text("mine now")
    (out / "sub/notes").write_text("mine")
    with claimed(out, {**RUN, "seed": 2}, overwrite=True):
        write(out / "a")
        with refused("output-file-foreign", names="notes"):
            write(out / "sub/notes")
        remove(out / "sub/notes")
    assert seen(out) == {"a": "medgen", ".changed/a": "mine now", "sub/notes": "mine"}


def test_damaged_file_of_the_same_run_is_replaced(tmp_path):
    made(tmp_path / "out", "a")
    (tmp_path / "out/a").write_text("dam")
    made(tmp_path / "out", "a")
    assert seen(tmp_path / "out") == {"a": "medgen", ".changed/a": "dam"}


def test_file_changed_by_others_is_backed_up_before_the_run_replaces_it(tmp_path, caplog):
    out = tmp_path / "out"
    made(out, "a", "sub/b", "c", "d")
    (out / "a").write_text("corrected by hand")
    (out / "sub/b").unlink()
    (out / "sub/b").symlink_to(out / "elsewhere")
    os.utime(out / "c", ns=(1, 1))  # as in a copy of the folder
    made(out, "a", "sub/b", "c", "d")
    assert [line for line in caplog.messages if f"{out / 'a'} was changed after medgen wrote it" in line]
    (out / "a").write_text("corrected again")
    made(out, "a")
    assert len(caplog.messages) == 3 and "c was" not in caplog.text and "d was" not in caplog.text
    kept = files(out / ".changed")
    assert kept == {"a": "corrected by hand", "1a": "corrected again"} and (out / ".changed/sub/b").is_symlink()
    assert {name: text for name, text in seen(out).items() if ".changed" not in name} == dict.fromkeys(
        ("a", "c", "d", "sub/b"), "medgen"
    )


def test_kill_before_a_rename_does_not_mark_a_file_as_changed(tmp_path, caplog):
    out = tmp_path / "out"
    made(out, "a")
    with claimed(out, RUN):
        (out / "new").write_text("other text")
        record_written(out / "a", out / "new")  # recorded; the process is killed before the rename
    (out / "new").unlink()
    made(out, "a")
    assert not caplog.messages and not (out / ".changed").exists()


def test_kill_between_two_renames_does_not_mark_a_file_as_changed(tmp_path, caplog, monkeypatch):
    out = tmp_path / "out"

    def best(text):
        with claimed(out, RUN), atomic_folder(out / "best") as temporary:
            (temporary / "weights").write_text(text)

    best("first")
    rename = os.rename

    def killed(old, new):
        if str(new).endswith(".old"):
            rename(old, new)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "rename", killed)
        best("second")
    assert not (out / "best").exists()
    for text in ("third", "fourth"):
        best(text)
    assert not caplog.messages and not (out / ".changed").exists() and (out / "best/weights").read_text() == "fourth"


def test_replaced_folder_backs_up_files_changed_by_others(tmp_path, caplog):
    out = tmp_path / "out"
    for text in ("first", "second"):
        with claimed(out, RUN), atomic_folder(out / "best") as temporary:
            (temporary / "weights").write_text(text)
        if text == "first":
            (out / "best/weights").write_text("mine now")
    assert (out / "best/weights").read_text() == "second"
    assert files(out / ".changed") == {"best/weights": "mine now"} and len(caplog.messages) == 1


def test_other_files_are_refused_and_kept(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with refused("folder-not-empty", names=("thesis.txt", "--overwrite")):
        made(tmp_path, "a")
    made(tmp_path, "a", overwrite=True)
    made(tmp_path, "a")
    assert seen(tmp_path) == {"thesis.txt": "mine", "a": "medgen"}


def test_run_that_wrote_no_result_leaves_the_folder_free(tmp_path):
    with claimed(tmp_path / "out", RUN):
        pass
    assert not (tmp_path / "out").exists()
    made(tmp_path / "out", "manifest.json")
    made(tmp_path / "out", "a", about={**RUN, "seed": 2})
    assert seen(tmp_path / "out") == {"a": "medgen"}


def test_two_runs_do_not_share_a_folder(tmp_path):
    with claimed(tmp_path / "out", RUN):
        (tmp_path / "link").symlink_to(tmp_path / "out")
        with refused("output-locked"):
            with claimed(tmp_path / "link", RUN):
                pass


def test_a_folder_moved_with_its_inputs_is_the_same_run(tmp_path):
    for name in ("old", "elsewhere"):
        (tmp_path / name / "in").mkdir(parents=True)
    made(tmp_path / "old/out", "a", about={"input": tmp_path / "old/in"})
    shutil.move(tmp_path / "old/out", tmp_path / "elsewhere/out")
    made(tmp_path / "elsewhere/out", "b", about={"input": tmp_path / "elsewhere/in"})
    with refused("folder-not-empty", names="input"):
        made(tmp_path / "elsewhere/out", "b", about={"input": tmp_path / "old/in"})


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ours=st.sets(st.sampled_from(["a", "b", "s/a", "s/b", "t/u/c"])),
    theirs=st.sets(st.sampled_from(["a", "x", "s/a", "s/x", "t/u/y"])),
    edited=st.booleans(),
    killed=st.booleans(),
)
def test_files_of_others_are_never_lost(tmp_path, ours, theirs, edited, killed):
    out = tmp_path / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    made(out, *sorted(ours))
    if killed:  # the last line of the record is incomplete
        (out / RECORD).write_bytes((out / RECORD).read_bytes()[:-3] if ours else b"{")
    for name in theirs:
        if edited or name not in ours:
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_text("theirs")
    kept = {name for name in theirs if edited or name not in ours}
    with claimed(out, {**RUN, "seed": 2}, overwrite=True):
        for name in sorted(ours | theirs):
            try:
                write(out / name, "again")
            except InputError:
                continue
    held = {name.removeprefix(".changed/") for name, text in seen(out).items() if text == "theirs"}
    assert held == kept


def test_replaced_folder_keeps_files_added_by_others(tmp_path):
    with claimed(tmp_path, RUN):
        for text in ("one", "two"):
            with atomic_folder(tmp_path / "best") as temporary:
                (temporary / "model.json").write_text(text)
            if text == "one":
                (tmp_path / "best/README").write_text("mine")
                (tmp_path / "best/notes").mkdir()
                (tmp_path / "best/notes/n").write_text("mine")
    assert seen(tmp_path) == {"best/README": "mine", "best/notes/n": "mine", "best/model.json": "two"}
    (tmp_path / "best/weights").write_text("mine")
    with claimed(tmp_path, RUN), refused("output-file-foreign", names="weights"):
        with atomic_folder(tmp_path / "best") as temporary:
            (temporary / "weights").write_text("three")
    assert seen(tmp_path)["best/weights"] == "mine" and seen(tmp_path)["best/model.json"] == "two"


def test_appended_file_is_deleted_at_any_length(tmp_path):
    with claimed(tmp_path / "out", RUN):
        for text in "abc":
            record_written(tmp_path / "out/log.csv")
            with open(tmp_path / "out/log.csv", "a") as file:
                file.write(text)
    assert len((tmp_path / "out" / RECORD).read_bytes().splitlines()) == 2
    made(tmp_path / "out", "a", about={**RUN, "seed": 2}, overwrite=True)
    assert seen(tmp_path / "out") == {"a": "medgen"}


@pytest.mark.parametrize("line", ['{"file": "../mine"}', '{"file": "/mine"}', '{"file": "../mine", "mark": null}'])
def test_record_cannot_point_outside_its_folder(tmp_path, line):
    (tmp_path / "mine").write_text("mine")
    made(tmp_path / "out", "a")
    with open(tmp_path / "out" / RECORD, "a") as file:
        file.write(line.replace("/mine", str(tmp_path / "mine")) if '"/mine' in line else line)
    made(tmp_path / "out", about={**RUN, "seed": 2}, overwrite=True)
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_link_in_the_folder_is_not_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/mine").write_text("mine")
    made(tmp_path / "out", "sub/mine")
    shutil.rmtree(tmp_path / "out/sub")
    (tmp_path / "out/sub").symlink_to(tmp_path / "elsewhere")
    made(tmp_path / "out", "b", about={**RUN, "seed": 2}, overwrite=True)
    assert (tmp_path / "elsewhere/mine").read_text() == "mine"


def test_file_or_broken_link_is_refused_as_output_folder(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    for name, code in (("file", "output-is-file"), ("link", "output-is-file"), ("file/below", "folder-not-creatable")):
        with refused(code, names=name):
            made(tmp_path / name, "a")


def test_output_that_is_or_contains_an_input_is_refused(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "in")
    for out in ("in", "in/../in", "link", "."):
        with refused("output-is-input"):
            check_output_is_not_input(tmp_path / out, None, tmp_path / "in")
    check_output_is_not_input(tmp_path / "in/out", tmp_path / "in")


def test_one_file_is_replaced_only_when_asked(tmp_path):
    out = tmp_path / "new/scan.nii"
    with claimed_file(out):
        out.write_text("mine")
        with refused("output-locked"), claimed_file(out, overwrite=True):
            pass
    with refused("output-exists", names="--overwrite"), claimed_file(out):
        pass
    with claimed_file(out, overwrite=True):
        pass
    with refused("output-exists"), claimed_file(tmp_path / "new", overwrite=True):
        pass
    assert [p.name for p in out.parent.iterdir()] == ["scan.nii"]


def test_report_is_added_if_it_is_new_or_written_by_medgen(tmp_path):
    made(tmp_path / "out", "report.html")
    with adding_files(tmp_path / "out/report.html", tmp_path / "out/report.pdf"):
        write(tmp_path / "out/report.pdf")
    with adding_files(tmp_path / "out/report.html", tmp_path / "out/report.pdf"):
        check_ours(tmp_path / "out/report.pdf")
    (tmp_path / "thesis.pdf").write_text("mine")
    with refused("output-exists", names="thesis.pdf"):
        with adding_files(tmp_path / "thesis.html", tmp_path / "thesis.pdf"):
            pass
    assert sorted(os.listdir(tmp_path)) == ["out", "thesis.pdf"]


def test_a_record_holds_each_file_once_after_the_next_start(tmp_path):
    for _ in range(3):
        made(tmp_path, "a", "b")
    lines = [json.loads(line) for line in (tmp_path / RECORD).read_text().splitlines()]
    assert lines[0]["about"] == {"command": "test", "seed": "1"} and len(lines) == 5


def test_an_output_file_is_no_input_and_no_file_of_one(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/weights.safetensors").write_text("w")
    (tmp_path / "s.nii.gz").write_text("s")
    (tmp_path / "link").symlink_to(tmp_path / "model")
    for path in ("model/weights.safetensors", "link/weights.safetensors", "s.nii.gz"):
        with refused("output-is-input", names=path):
            check_file_is_not_input(tmp_path / path, None, tmp_path / "model", tmp_path / "s.nii.gz")
    for path in ("model/new.medgen", "other"):
        check_file_is_not_input(tmp_path / path, tmp_path / "model", tmp_path / "s.nii.gz")
