"""Where an archive sends what it is asked to move (C-MOVE, PS3.4 C.4.2): a port of ours, open while a request runs."""

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pynetdicom import AE

from medgen.errors import InputError


@contextmanager
def receiving(
    title: str, port: int, host: str, kinds: Sequence[Any], syntaxes: Sequence[Any], handlers: Sequence[Any]
) -> Iterator[set[str]]:
    """Take images as application entity ``title`` at ``port`` of this machine, from ``host`` and nobody else.

    Args:
        kinds, syntaxes: of images.
        handlers: of pynetdicom's events, that of C-STORE among them.

    Yields:
        The addresses that were turned away.

    Raises:
        InputError: the port cannot be opened.
    """
    entity = AE(title)
    entity.require_called_aet = True
    for kind in kinds:
        entity.add_supported_context(kind, list(syntaxes))
    known, others = _addresses(host), set[str]()

    def verify(_: Any, client: tuple[str, int]) -> bool:
        if client[0] not in known:
            others.add(client[0])
        return client[0] in known

    try:
        server = entity.start_server(("", port), block=False, evt_handlers=list(handlers))
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            "pacs-port-unavailable", f"port {port} of this machine cannot be opened ({reason}); choose another one"
        ) from None
    assert server is not None  # it does not block
    server.verify_request = verify  # type: ignore[assignment,method-assign]  # socketserver's, before a byte is read
    try:
        yield others
    finally:
        entity.shutdown()


def _addresses(host: str) -> set[str]:
    try:
        return {str(found[4][0]) for found in socket.getaddrinfo(host, None)}
    except OSError:
        return set()  # the request for the images will say so
