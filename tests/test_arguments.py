from typing import Annotated, Any

import pytest

from medgen.arguments import arguments, deal


class Part:
    def __init__(self, *, a: int = 1, b: int = 2) -> None: ...


class Other:
    def __init__(self, *, channels: int, c: int = 3) -> None: ...


class Whole:
    def __init__(self, *, b: int = 20, **rest: Annotated[Any, Part, Other]) -> None: ...


def test_own_arguments_come_before_those_of_the_parts():
    found = arguments(Whole)
    assert {k: p.default for k, p in found.items()} == {"b": 20, "a": 1, "c": 3}


def test_each_part_gets_its_own():
    assert deal({"a": 5, "channels": 6}, Part, Other) == [{"a": 5}, {"channels": 6}]


def test_unknown_ones_are_refused():
    with pytest.raises(TypeError, match="wrong"):
        deal({"wrong": 1}, Part, Other)
