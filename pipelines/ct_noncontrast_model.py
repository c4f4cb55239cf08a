"""Train the model ct-noncontrast that comes with medgen: contrast CT → non-contrast CT of any region and scanner.

    python pipelines/ct_noncontrast_model.py OUT [section.key=value ...]

It is trained on nothing but randomised phantoms (``medgen phantom --randomise``), in a few hours on two cores. OUT
contains ``cohort``, ``run`` (training) and ``model``: the last weights (their moving average) in 16 bits, as they are
copied to ``medgen/models/ct-noncontrast``. A restart resumes an interrupted call.
"""

import argparse
import json
import sys
from pathlib import Path

from medgen.commands.shared import whole_run
from medgen.config import config_file, load_settings
from medgen.errors import InputError
from medgen.io.names import print_line

CONFIG = "ct_contrast_regression"
COHORT = {"patients": 400, "size": (128, 112, 96), "seed": 21}
KNOWN = (  # limits of the model that is in the package, shown in every report that it makes
    "ribs, the manubrium and other bones can be taken for vessels and lose density; contrast medium of 1000 HU and "
    "more stays; look at bones and at the verdict before use"
)
PATIENT = r"^(patient_\d+)_"  # three scans of each


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    parser.add_argument("--patients", type=int, default=COHORT["patients"])
    arguments = parser.parse_intermixed_args()
    out: Path = arguments.out
    own = [f"data.root={json.dumps(str(out / 'cohort'))}", f"data.patient_pattern={json.dumps(PATIENT)}"]
    settings = load_settings(config_file(CONFIG), [*own, *arguments.overrides])
    with whole_run(out, [], {"command": "ct_noncontrast_model"}, False):
        from medgen.phantom.cohort import write_cohort
        from medgen.training.loop import train

        write_cohort(
            out / "cohort",
            **COHORT | {"patients": arguments.patients},  # type: ignore[arg-type]
            randomise=True,
            progress=lambda i, n, case: print(f"[{i}/{n}] {case}", flush=True),
        )
        train(settings, out / "run", resume=True, say=print_line)
        pack(out / "run" / "last", out / "model")
    print_line(f"model: {out / 'model'}")
    return 0


def pack(trained: Path, folder: Path) -> None:
    """Write a model folder with weights in 16 bits: half the size, and a rounding far below 1 HU."""
    from medgen.checkpoint import load_model, save_model
    from medgen.io.atomic import atomic_folder

    model = load_model(trained)
    info = model.info.model_copy(update={"health": [*model.info.health, KNOWN]})
    with atomic_folder(folder) as temporary:
        save_model(temporary, model.generator, info, half=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (InputError, FloatingPointError) as error:
        print_line(f"medgen: error: {error}", error=True)
        sys.exit(2)
