"""Messages are one line without escape codes for any file name."""

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medgen.cli import main
from medgen.errors import InputError, reason
from medgen.io.names import LONGEST_LINE, one_line, print_line, short_reason

ODD = ("two\nlines", "\x1b[2J", "tab\t", "\r\x85\u2028\u2029", "\u202egpj", "\udcff\udcfe", "\x00", "n" * 5000)


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(), max_size=50))
def test_any_text_is_one_printable_line(text):
    line = one_line(text)
    assert line.isprintable() and len(line.splitlines()) <= 1
    assert one_line(line) == line
    line.encode()


def test_a_long_line_keeps_its_ends():
    line = one_line("first " + "n" * 10**6 + " last")
    assert len(line) < LONGEST_LINE + 10 and line.startswith("first n") and line.endswith("n last")


@pytest.mark.parametrize("name", ODD)
def test_error_about_a_file_of_any_name_is_one_line(name, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["medgen", "train", str(tmp_path / name), "--out", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as end:
        main()
    out, err = capfd.readouterr()
    assert end.value.code == 2 and out == ""
    assert err.startswith("medgen: error: ") and err.endswith("\n") and err[:-1].isprintable()


def test_os_error_is_reported_in_one_line(tmp_path, monkeypatch, capfd):
    def refused():
        raise PermissionError(13, "Permission denied", str(tmp_path / "a\nb"))

    monkeypatch.setattr("medgen.cli.app", refused)
    with pytest.raises(SystemExit):
        main()
    assert capfd.readouterr().err.endswith(
        "a\\nb cannot be used (Permission denied); check the path, its permissions and the disk\n"
    )


def test_print_line_escapes_invalid_utf8(capfd):
    print_line("\udcff\n", error=True)
    assert capfd.readouterr().err == "\\udcff\\n\n"


def test_reason_of_a_library_has_no_addresses():
    """The lines before the reason, which name source code, are removed too."""
    text = "Exception thrown in x.cxx:99:\n itk::ERROR: ITK ERROR: MetaImageIO(0x558c1a0dba10): File cannot be read.\n"
    assert short_reason(RuntimeError(text)) == "itk::ERROR: ITK ERROR: MetaImageIO: File cannot be read"
    assert short_reason(RuntimeError("")) == "RuntimeError"
    try:
        raise ValueError("object at 0x7f00aa\nand more")
    except ValueError as error:
        assert reason(error).endswith("object at and more") and "test_names.py" in reason(error)
    assert reason(InputError("x", "a.nii is 2D")) == "a.nii is 2D"
