"""Keyword arguments that several classes share, written once: what a config may set, and handing them on."""

import inspect
from typing import Any


def arguments(cls: type) -> dict[str, inspect.Parameter]:
    """Keyword arguments of ``cls`` by name.

    ``**rest: Annotated[Any, Part, Other]`` stands for those of the classes named that ``cls`` has not itself and
    that have a default; what has none is ``cls``'s to give.
    """
    own = dict(inspect.signature(cls).parameters)
    for parameter in [p for p in own.values() if p.kind is inspect.Parameter.VAR_KEYWORD]:
        del own[parameter.name]
        for part in parameter.annotation.__metadata__:
            given = {k: p for k, p in arguments(part).items() if p.default is not inspect.Parameter.empty}
            own |= {k: p for k, p in given.items() if k not in own}
    return own


def deal(given: dict[str, Any], *parts: type) -> list[dict[str, Any]]:
    """Those of the given arguments that each class takes.

    Raises:
        TypeError: an argument that none takes.
    """
    hands = [{k: v for k, v in given.items() if k in arguments(part)} for part in parts]
    unknown = set(given).difference(*hands)
    if unknown:
        raise TypeError(f"unexpected keyword arguments: {', '.join(sorted(unknown))}")
    return hands
