"""Real → real on the Decathlon's hippocampi: what the segmenter of the downstream protocols can do.

    python benchmarks/hippocampus.py DATA OUT [--minutes 27] [--fold 0] [--seed 0]

DATA holds ``images`` and ``labels`` (1 anterior, 2 posterior). Patients are dealt into five folds by a hash of their
name: 176 cases to train on, 44 to test; ``OUT/summary.json`` names the tested ones. Prints a table of Dice, HD95, ASSD
and surface Dice at 1 mm. Run again with the same arguments it prints what is there; a training that was killed begins
anew.
"""

import argparse
import time
from pathlib import Path

from medgen.downstream.protocols import read_examples, run_protocols
from medgen.downstream.summary import markdown, summarise

FOLDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=27, help="of training")
    parser.add_argument("--steps", type=int, default=50_000, help="of training, if they are over before the minutes")
    parser.add_argument("--fold", type=int, default=0, choices=range(FOLDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--filters", type=int, default=16)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=0)
    given = parser.parse_args()
    training = {k: getattr(given, k) for k in ("minutes", "steps", "filters", "batch", "lr", "device", "workers")}
    started = time.monotonic()
    found = run_protocols(
        read_examples(given.data / "images", given.data / "labels"),
        [],
        given.out,
        folds=FOLDS,
        only=[given.fold],
        seeds=[given.seed],
        tolerance_mm=1.0,
        training=training,
    )
    print(f"{(time.monotonic() - started) / 60:.1f} minutes in all, {len(found.failures)} failures\n")
    for failure in found.failures:
        print(f"{failure.case}: {failure.error}")
    print(markdown(summarise(found.rows)))


if __name__ == "__main__":
    main()
