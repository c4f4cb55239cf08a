"""A stand-in for SimpleITK where it is not installed: medgen can be imported, and fails only where it calls it."""

from typing import Any


class Image:
    pass


def __getattr__(name: str) -> Any:
    def absent(*_: object, **__: object) -> None:
        raise ImportError(f"SimpleITK.{name}: SimpleITK is not installed here")

    return absent
