"""One published method a file; the file's name is the method's name in a config."""

import difflib
import importlib
import pkgutil

from medgen.errors import InputError


def method_names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "base")


def method_class(name: str, where: str = "config") -> type:
    """The class that ``medgen/methods/<name>.py`` defines.

    Raises:
        InputError: no such method; the sentence lists the known ones.
    """
    names = method_names()
    if name not in names:
        close = difflib.get_close_matches(str(name), names, n=1)
        hint = f"; did you mean {close[0]}?" if close else f"; known: {', '.join(names)}"
        raise InputError(f"{where}: unknown method {name!r}{hint}")
    module = importlib.import_module(f"{__name__}.{name}")
    own = [v for v in vars(module).values() if isinstance(v, type) and v.__module__ == module.__name__]
    return next(c for c in own if hasattr(c, "translate"))
