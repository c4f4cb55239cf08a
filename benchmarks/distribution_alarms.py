"""How often a held-out patient of the training cohort is called out of distribution, by number of training patients.

    python benchmarks/distribution_alarms.py [--patients 110]

Fingerprints of embedded patients (arterial, portal venous and late) are drawn into training and held-out patients 300
times for each number. Prints the share of held-out patients for which `distribution_shift_reasons` has a reason.
"""

import argparse

import numpy as np

from medgen.data.fingerprint import describe, distribution_shift_reasons
from medgen.data.intensity import Range
from medgen.phantom.cohort import make_patient

SIZE, SPACING = (80, 64, 48), (4.5, 4.5, 5.0)
PHASES = ("arterial", "portal_venous", "late")
DRAWS = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=110)
    a = parser.parse_args()
    found = []
    for n in range(a.patients):
        patient = make_patient(5000 + n, size=SIZE, spacing=SPACING, phase=PHASES[n % 3])
        found.append(describe(patient.contrast, SPACING, Range(-1000, 1000)))
    rng = np.random.default_rng(0)
    print("| training patients | flagged | of | share |\n|---|---|---|---|")
    for count in (3, 4, 6, 9, 12, 20, 40):
        flagged = total = 0
        for _ in range(DRAWS):
            order = rng.permutation(len(found))
            training = [found[i] for i in order[:count]]
            for i in order[count : count + 10]:
                flagged += bool(distribution_shift_reasons(found[i], training))
                total += 1
        print(f"| {count} | {flagged} | {total} | {flagged / total:.1%} |", flush=True)


if __name__ == "__main__":
    main()
