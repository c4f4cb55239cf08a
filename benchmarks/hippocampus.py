"""Accuracy of the downstream segmenter on the Decathlon's hippocampi, trained and tested on real images.

    python benchmarks/hippocampus.py DATA OUT [--minutes 27] [--fold 0] [--seed 0]

DATA contains ``images`` and ``labels`` (1 anterior, 2 posterior). A hash of their names assigns patients to five folds:
176 cases for training, 44 for testing, which ``OUT/summary.json`` lists. Prints a table of Dice, HD95, ASSD and surface
Dice at 1 mm. A second call with the same arguments prints existing results; an interrupted training is restarted.
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
    parser.add_argument("--minutes", type=float, default=27, help="training time")
    parser.add_argument("--steps", type=int, default=50_000, help="training steps; the first limit reached applies")
    parser.add_argument("--fold", type=int, default=0, choices=range(FOLDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--filters", type=int, default=16)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=0)
    args = parser.parse_args()
    training = {k: getattr(args, k) for k in ("minutes", "steps", "filters", "batch", "lr", "device", "workers")}
    started = time.monotonic()
    found = run_protocols(
        read_examples(args.data / "images", args.data / "labels"),
        [],
        args.out,
        folds=FOLDS,
        only=[args.fold],
        seeds=[args.seed],
        tolerance_mm=1.0,
        training=training,
    )
    print(f"{(time.monotonic() - started) / 60:.1f} minutes in total, {len(found.failures)} failures\n")
    for failure in found.failures:
        print(f"{failure.case}: {failure.error}")
    print(markdown(summarise(found.rows)))


if __name__ == "__main__":
    main()
