"""Report which model made the evaluated volumes, from the ``manifest.json`` that the conversion wrote beside them."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from medgen.errors import InputError


def read_manifest(prediction: Path) -> dict[str, Any] | None:
    """Read the manifest in a converted folder (or beside a converted file); None if there is none.

    Raises:
        InputError: the file is not a medgen manifest.
    """
    path = (prediction if prediction.is_dir() else prediction.parent) / "manifest.json"
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        content["model"]["sha256"], content["cases"].values()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            "manifest-foreign", f"{path} is not a manifest of medgen ({error}); move it to another folder"
        ) from error
    return content


def provenance(manifest: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Return {"model": ..., "conversion": ...} as short texts for a report, without entries an older manifest lacks."""
    model, cases = manifest["model"], manifest["cases"].values()
    data = model.get("training_data") or {}
    model_entries = {
        "folder": model.get("folder"),
        "method": model.get("method"),
        "step": model.get("step"),
        "target": model.get("target"),
        "weights sha256": model.get("weights_sha256"),
        "model sha256": model["sha256"],
        "training cases": len(data["training"]) if "training" in data else None,
        "training data sha256": data.get("sha256"),
        "versions": ", ".join(f"{name} {version}" for name, version in (model.get("versions") or {}).items()) or None,
        "commit": model.get("commit"),
        "health": "; ".join(model.get("health") or []) or None,
    }
    counts = Counter(case.get("status", "?") for case in cases)
    conversion = {status: str(number) for status, number in sorted(counts.items())}
    conversion["with warnings"] = str(sum(bool(case.get("warnings")) for case in cases))
    return {
        "model": {name: str(value) for name, value in model_entries.items() if value is not None},
        "conversion": conversion,
    }
