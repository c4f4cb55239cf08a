"""Commands over many cases show one bar with the time left, and nothing without a terminal."""

import io
import sys

from medgen.commands.progress import case_bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(stream, monkeypatch):
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with case_bar("translating") as bar:
        for n in range(1, 4):
            print(f"[{n}/3] case{n}", flush=True)
            bar(n, 3)
    return stream.getvalue()


def test_a_terminal_gets_the_lines_above_one_bar_with_the_time_left(monkeypatch):
    text = shown(Terminal(), monkeypatch)
    for part in ("[1/3] case1", "[3/3] case3", "translating", "3/3", "left"):
        assert part in text
    assert text.rstrip().endswith("\x1b[2K")  # the bar is erased at the end


def test_without_a_terminal_there_are_the_lines_alone(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # as in continuous integration
    assert shown(io.StringIO(), monkeypatch) == "[1/3] case1\n[2/3] case2\n[3/3] case3\n"


def test_a_number_of_cases_may_be_unknown(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Terminal())
    with case_bar("translating") as bar:
        bar(2, 0)
    assert "translating" in sys.stdout.getvalue()
