"""Expect that a call is refused with an error of a known code, whatever the wording of its message."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from medgen.errors import InputError


@contextmanager
def refused(*codes: str, names: str | tuple[str, ...] = ()) -> Iterator[pytest.ExceptionInfo[InputError]]:
    """The block raises an InputError with one of these codes; gives pytest's record of it.

    Its message has all of names in it: what a user looks for, such as the file, the field or the key at fault.
    """
    with pytest.raises(InputError) as caught:
        yield caught
    assert caught.value.code in codes, f"{caught.value.code}, not {' or '.join(codes)}: {caught.value}"
    message = str(caught.value)
    missing = [name for name in ([names] if isinstance(names, str) else names) if name not in message]
    assert not missing, f"{', '.join(missing)} not in: {message}"
