"""Translation and generative methods, one published method per file; the file name is the method's name in a config."""

import difflib
import importlib
import pkgutil
from types import ModuleType

from medgen.errors import InputError
from medgen.methods.base import MethodSettings


def method_names() -> list[str]:
    files = (module.name for module in pkgutil.iter_modules(__path__) if not module.ispkg)
    return sorted(name for name in files if name != "base")


def method_class(name: str) -> type:
    """The class with ``step`` in ``medgen/methods/<name>.py``. Raises the same as ``settings_class``."""
    module = _module(name, "config")
    own = [v for v in vars(module).values() if isinstance(v, type) and v.__module__ == module.__name__]
    return next(c for c in own if hasattr(c, "step"))


def settings_class(name: str, where: str = "config") -> type[MethodSettings]:
    """The class ``Settings`` of ``medgen/methods/<name>.py``.

    Raises:
        InputError: unknown method; the message suggests a similar name or lists the known ones.
    """
    return _module(name, where).Settings


def _module(name: str, where: str) -> ModuleType:
    names = method_names()
    if name not in names:
        close = difflib.get_close_matches(str(name), names, n=1)
        hint = f"; did you mean {close[0]}?" if close else f"; use one of {', '.join(names)}"
        raise InputError("method-unknown", f"{where}: unknown method {name!r}{hint}")
    return importlib.import_module(f"{__name__}.{name}")
