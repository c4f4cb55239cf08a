"""Names of labels matched without regard to case: programs write Liver, liver and LIVER."""

from collections.abc import Collection


def label_named(name: str, known: Collection[str]) -> str | None:
    """The one of ``known`` that ``name`` means: the same, else the only one that differs in case alone; else None."""
    if name in known:
        return name
    alike = [other for other in known if other.casefold() == name.casefold()]
    return alike[0] if len(alike) == 1 else None
