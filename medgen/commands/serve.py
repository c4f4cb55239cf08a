"""``medgen serve``: conversions over HTTP."""

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from medgen.commands.shared import REFUSED, pick_device
from medgen.errors import InputError
from medgen.io.names import print_line

TOKEN = "MEDGEN_SERVER_TOKEN"
SHORTEST_TOKEN = 16  # characters
GIB = 2**30


def serve(
    models: Annotated[
        list[Path], typer.Argument(help="Model folders or ONNX files, or names that medgen models lists.")
    ],
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port.")] = 8000,
    host: Annotated[
        str, typer.Option(help="Address to listen on; another than this machine's own needs a token.")
    ] = "127.0.0.1",
    allow_paths: Annotated[
        Path | None, typer.Option(help="Folder of scans that clients may name instead of uploading.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    memory_gb: Annotated[
        float | None, typer.Option(min=0.01, max=1e6, help="Memory limit of a forward pass in GiB.")
    ] = None,
    qa_limits: Annotated[str, typer.Option(help="Limits of the structure check, as for translate.")] = "auto",
    upload_gb: Annotated[float, typer.Option(min=0.001, max=1e4, help="Largest upload in GiB.")] = 2.0,
    queue: Annotated[int, typer.Option(min=1, max=1000, help="Jobs that may wait or run.")] = 8,
    kept: Annotated[int, typer.Option(min=1, max=10000, help="Finished jobs that are kept.")] = 16,
    work: Annotated[Path | None, typer.Option(help="Folder for uploads and results; default: a temporary one.")] = None,
) -> None:
    """Convert scans that clients upload, with a page for browsers; all files are deleted at the end."""
    try:
        import uvicorn

        from medgen.server.app import LOCAL, Access, build_app
    except ImportError:
        raise InputError(
            "dependency-missing",
            "medgen serve needs further packages; install them: pip install 'medgen[server]'",
        ) from None
    from medgen.server.jobs import Jobs
    from medgen.server.named import served_models
    from medgen.server.uploads import Limits

    token, own = os.environ.get(TOKEN) or None, host in ("127.0.0.1", "localhost", "::1")
    if not own and token is None:
        raise InputError(
            "server-token-missing",
            f"--host {host} is reachable from other machines, which needs a token: set {TOKEN} to a long random text",
        )
    if token is not None and (len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable()):
        raise InputError(
            "server-token-weak", f"{TOKEN} needs at least {SHORTEST_TOKEN} printable ASCII characters; choose another"
        )
    if allow_paths is not None and not allow_paths.is_dir():
        raise InputError("path-not-folder", f"--allow-paths {allow_paths} is not a folder; give a folder of scans")
    named, about = served_models(models)
    if work is not None:
        work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="medgen-serve-", dir=work) as folder:
        limits = Limits(int(upload_gb * GIB), int(4 * upload_gb * GIB), queue, kept)
        place = Path(os.path.realpath(folder))
        jobs = Jobs(named, place, limits, device=pick_device(device), memory_gb=memory_gb, qa_limits=qa_limits)
        access = Access(token, LOCAL if own else None, allow_paths)
        print_line(f"serving {', '.join(named)} on http://{host}:{port}; press Ctrl-C to stop")
        app = build_app(jobs, access, about, lambda: server.should_exit)
        server = uvicorn.Server(uvicorn.Config(app, host, port, log_level="warning", server_header=False))
        with suppress(KeyboardInterrupt):
            server.run()
    if not server.started:
        raise typer.Exit(REFUSED)
