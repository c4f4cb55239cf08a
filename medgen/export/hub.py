"""Packed models on a hub (Hugging Face, or a server with its interface) through ``huggingface_hub``.

A repository gets ``model.medgen`` (see `package`) and, as README.md, the model's card.
"""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from medgen.checkpoint import read_info
from medgen.errors import InputError
from medgen.export.package import MOST_PACKAGE, file_sha256, pack
from medgen.model_card import CARD, card_text
from medgen.models import model_folder

PREFIX = "hub:"
ADDRESS = re.compile(r"hub:(\w[\w.-]{0,95}/\w[\w.-]{0,95})(?:@(\w[\w./-]{0,199}))?", re.ASCII)
PACKAGE, README = "model.medgen", "README.md"
# Front matter of a README, by which a hub filters models.
HEAD = "---\nlibrary_name: medgen\npipeline_tag: image-to-image\ntags: [medical, 3d]\n---\n\n"
OWN = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class HubPlace:
    """A repository ``OWNER/NAME`` at a branch, tag or commit; None: its main branch."""

    name: str
    revision: str | None = None

    def __str__(self) -> str:
        return PREFIX + self.name + (f"@{self.revision}" if self.revision else "")


def hub_place(text: str) -> HubPlace | None:
    """The repository that ``hub:OWNER/NAME`` or ``hub:OWNER/NAME@REVISION`` names; None: another text.

    Raises:
        InputError: the text begins with hub: but has another form. The message does not repeat it, because it may
            contain a password.
    """
    if not text.startswith(PREFIX):
        return None
    if not (found := ADDRESS.fullmatch(text)) or ".." in text:
        raise InputError(
            "hub-address-invalid", "the address of a hub has the form hub:OWNER/NAME or hub:OWNER/NAME@TAG"
        )
    return HubPlace(found[1], found[2])


def upload(model: Path, place: HubPlace, *, public: bool = False, overwrite: bool = False) -> tuple[str, str]:
    """Pack a model and add it to a repository in one commit, with its card as README.md.

    Args:
        public: a repository that does not exist yet becomes public, otherwise private; others stay as they are.
        overwrite: replace a model or README.md that is there.

    Returns:
        SHA-256 of the package, and the commit.

    Raises:
        InputError: not a model folder, huggingface_hub is missing, no token, files that are there, or the hub refuses.
    """
    hub = _library()
    if place.revision:
        raise InputError("hub-revision-given", f"{place}: a model is added to the main branch; leave out the @")
    api = _api(hub)
    if not api.token:
        raise InputError(
            "hub-token-missing", "uploading needs a token of the hub that may write: set HF_TOKEN, or run hf auth login"
        )
    with tempfile.TemporaryDirectory(prefix="medgen-") as aside, _explained(hub, place):
        file = Path(aside, PACKAGE)
        digest = pack(model, file)
        readme = _readme(model, place, digest)
        if not api.repo_exists(place.name):
            api.create_repo(place.name, private=not public)
        found = [] if overwrite else [name for name in (PACKAGE, README) if api.file_exists(place.name, name)]
        if found:
            raise InputError(
                "output-exists",
                f"{place} already has {' and '.join(found)}; choose another name, or add --overwrite to replace them "
                "(the hub keeps older versions)",
            )
        files = [hub.CommitOperationAdd(PACKAGE, str(file)), hub.CommitOperationAdd(README, readme.encode())]
        commit = api.create_commit(place.name, files, commit_message="Model packed by medgen")
    return digest, str(commit.oid)


def pinned(place: HubPlace) -> HubPlace:
    """The same repository at the commit that its revision names now. Raises InputError: no such model."""
    hub = _library()
    return replace(place, revision=_metadata(hub, _api(hub), place).commit_hash or place.revision)


def download(place: HubPlace, folder: Path) -> Path:
    """Write the package of a repository into an existing folder and return its path.

    Raises:
        InputError: no such model or no permission, a file beyond the size of a model, or not the SHA-256 that the hub
            states for it.
    """
    hub = _library()
    api = _api(hub)
    stated = _metadata(hub, api, place)
    if stated.size is None or stated.size > MOST_PACKAGE:
        size = "no stated size" if stated.size is None else f"{stated.size} bytes, too many for a model"
        raise InputError("package-too-large", f"{place}: {PACKAGE} has {size}; it was not downloaded")
    with _explained(hub, place):
        path = Path(api.hf_hub_download(place.name, PACKAGE, revision=place.revision, local_dir=folder))
    etag = (stated.etag or "").lower()
    if re.fullmatch("[0-9a-f]{64}", etag) and file_sha256(path) != etag:  # others: not a hash of the content alone
        raise InputError(
            "package-changed", f"{place}: {PACKAGE} is not the file that the hub states; download it again"
        )
    return path


def _library() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise InputError(
            "dependency-missing", "hub: needs huggingface_hub; install it: pip install 'medgen[hub]'"
        ) from None
    from huggingface_hub.utils import disable_progress_bars, logging

    disable_progress_bars()
    logging.set_verbosity_error()
    return huggingface_hub


def _api(hub: Any) -> Any:
    """The client for HF_ENDPOINT, with the token of the environment or of ``hf auth login``; False: none.

    Raises:
        InputError: a token would be sent over the network unencrypted.
    """
    endpoint = os.environ.get("HF_ENDPOINT") or hub.constants.ENDPOINT
    token = hub.get_token() or False
    parts = urlsplit(endpoint)
    if token and parts.scheme != "https" and parts.hostname not in OWN:
        raise InputError(
            "hub-token-unencrypted", "HF_ENDPOINT: the token would be sent unencrypted; use an https address"
        )
    return hub.HfApi(endpoint=endpoint.rstrip("/"), token=token, library_name="medgen")


def _metadata(hub: Any, api: Any, place: HubPlace) -> Any:
    """Size, commit and hash that the hub states. Raises InputError."""
    with _explained(hub, place):
        url = hub.hf_hub_url(place.name, PACKAGE, revision=place.revision, endpoint=api.endpoint)
        return hub.get_hf_file_metadata(url, token=api.token, endpoint=api.endpoint)


def _readme(model: Path, place: HubPlace, digest: str) -> str:
    """The card with the lines that a hub reads, and the commands that get the model."""
    folder = model_folder(model)
    written = folder / CARD
    card = written.read_text(encoding="utf-8-sig") if written.is_file() else card_text(read_info(folder)[0])
    use = (
        f"\n## Use\n\n```\npip install 'medgen[hub]'\nmedgen unpack {place} MODEL --sha256 {digest}\n"
        "medgen translate MODEL SCANS OUT\n```\n"
    )
    return ("" if card.startswith("---\n") else HEAD) + card.rstrip("\n") + "\n" + use


@contextmanager
def _explained(hub: Any, place: HubPlace) -> Iterator[None]:
    """Errors of the hub as one sentence each, without texts of the server, which can repeat what was sent."""
    errors = hub.errors
    try:
        yield
    except InputError:
        raise
    except errors.RevisionNotFoundError:
        raise InputError("hub-revision-missing", f"{place}: the repository has no such branch, tag or commit") from None
    except errors.RepositoryNotFoundError:  # also gated ones, and a token that is not valid
        raise InputError(
            "hub-model-missing", f"{place} does not exist, or your token does not give access to it; check both"
        ) from None
    except errors.LocalEntryNotFoundError as error:  # not reached, and no copy of an earlier download
        raise _unreachable(place, error) from None
    except errors.EntryNotFoundError:
        raise InputError("hub-model-missing", f"{place} has no {PACKAGE}; medgen pack MODEL {place} adds one") from None
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "unknown")
        hint = "check the token and its permissions" if status in (401, 403) else "try again later"
        raise InputError("hub-refused", f"{place}: the hub answered with status {status}; {hint}") from None
    except Exception as error:  # connections end in types of several libraries
        raise _unreachable(place, error) from None


def _unreachable(place: HubPlace, error: Exception) -> InputError:
    return InputError(
        "hub-unreachable",
        f"{place}: the hub cannot be used ({type(error).__name__}); check the network and HF_ENDPOINT",
    )
