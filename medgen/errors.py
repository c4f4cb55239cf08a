"""`InputError` for errors that the user can fix, and one-line descriptions of exceptions."""

import re
import traceback
from pathlib import Path


class InputError(ValueError):
    """Input or settings that the user can fix.

    Attributes:
        code: stable short name of the problem, such as "file-missing". It stays the same when the wording of the
            message changes, so tests and scripts match it.

    The message is one sentence that names the file or key, what is wrong and what to do;
    the command line prints it without a traceback and exits with code 2.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[type["InputError"], tuple[str, str]]:
        return type(self), (self.code, str(self))  # so that it can be pickled between processes


ADDRESS = re.compile(r"\s*\(?\b0x[0-9a-fA-F]+\)?")  # memory addresses, which C++ libraries put into messages


def reason(error: BaseException) -> str:
    """The message of an exception in one line; for unexpected exceptions preceded by type, file and line."""
    text = " ".join(ADDRESS.sub("", str(error)).split())
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, InputError) or not frames:
        return text or type(error).__name__
    where = f"{type(error).__name__} in {Path(frames[-1].filename).name}, line {frames[-1].lineno}"
    return f"{where}: {text}" if text else where
