"""Writes docs/reference/config.md from the settings' own descriptions: python docs/reference/generate.py"""

import inspect
import json
import re
from pathlib import Path

from medgen.arguments import arguments
from medgen.config import Codec, Data, Inference, Sampling, Train
from medgen.losses.adversary import Adversary
from medgen.losses.preserve import Preserve
from medgen.methods import method_class, method_names

HEAD = """# Every key of a config

Generated from the code by `python docs/reference/generate.py`; a test keeps it true. A config is a YAML file;
`section.key=value` on the command line overrides it (`train.steps=500`, `sampling.patch=[96,96,64]`). An
unknown key is refused with the nearest right one. `configs/` holds complete files.
"""


def text() -> str:
    parts = [HEAD]
    for name, model in (
        ("data", Data),
        ("codec.source, codec.target", Codec),
        ("sampling", Sampling),
        ("train", Train),
        ("inference", Inference),
    ):
        parts.append(f"\n## {name}\n\n| key | default | meaning |\n|---|---|---|")
        for key, field in model.model_fields.items():
            default = json.dumps(field.get_default(call_default_factory=True), default=str)
            parts.append(f"| `{key}` | `{default}` | {field.description or ''} |")
    for part in (Adversary, Preserve):
        parts.append(f"\n## method: keys from losses.{part.__name__.lower()}\n")
        parts.append("```\n" + inspect.cleandoc(part.__doc__ or "") + "\n```")
    for name in method_names():
        cls = method_class(name)
        parts.append(f"\n## method: {name}\n")
        parts.append("```\n" + inspect.cleandoc(cls.__doc__ or "") + "\n```\n\n| key | default |\n|---|---|")
        for key, parameter in arguments(cls).items():
            parts.append(f"| `{key}` | `{json.dumps(parameter.default)}` |")
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts)) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("config.md").write_text(text())
