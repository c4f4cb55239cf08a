"""Receive images requested by C-MOVE (PS3.4 C.4.2) at a local port that is open while the request runs."""

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
    """Accept images as application entity ``title`` at the local ``port``, from ``host`` only.

    Args:
        kinds: SOP classes to accept.
        syntaxes: transfer syntaxes to accept.
        handlers: pynetdicom event handlers, including one for C-STORE.

    Yields:
        The addresses whose connections were refused; the set grows while the port is open.

    Raises:
        InputError: the port cannot be opened.
    """
    entity = AE(title)
    entity.require_called_aet = True
    for kind in kinds:
        entity.add_supported_context(kind, list(syntaxes))
    allowed, refused = _addresses(host), set[str]()

    def is_allowed(_: Any, client: tuple[str, int]) -> bool:
        if client[0] not in allowed:
            refused.add(client[0])
        return client[0] in allowed

    try:
        server = entity.start_server(("", port), block=False, evt_handlers=list(handlers))
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            "pacs-port-unavailable", f"local port {port} cannot be opened ({reason}); choose another port"
        ) from None
    assert server is not None  # because block=False
    # socketserver calls verify_request before any data is read.
    server.verify_request = is_allowed  # type: ignore[assignment,method-assign]
    try:
        yield refused
    finally:
        entity.shutdown()


def _addresses(host: str) -> set[str]:
    try:
        return {str(found[4][0]) for found in socket.getaddrinfo(host, None)}
    except OSError:
        return set()  # the C-MOVE request will report the error
