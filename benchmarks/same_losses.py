"""Print the losses of 20 seeded steps of every method as JSON, or compare two such files.

A check that a change for speed leaves the training as it was, in a few minutes, with the small networks of
tests/methods/test_every_method.py of the checkout (a 7-wide kernel included):

    cd CHECKOUT; PYTHONPATH=. OMP_NUM_THREADS=1 python PATH/same_losses.py [METHOD ...] > losses.json
    python benchmarks/same_losses.py before.json after.json

Steps are plain gradient descent, because Adam divides each gradient by its size, and so makes steps of rounding errors.
Unstable losses amplify these all the same: with Adam, the old code and a change of the input by 1e-7 differ by 1e-2 in
CycleGAN's losses after 20 steps. Look at the first steps then.

The difference is relative to the larger of a loss and 0.01. It is at most 1e-4, or the program fails.
"""

import json
import sys
from pathlib import Path

sys.path[:0] = [str(Path.cwd() / "tests"), str(Path.cwd() / "tests" / "methods")]
STEPS, TOLERANCE, RATE = 20, 1e-4, 1e-3


def losses(name: str) -> list[dict[str, float]]:
    import torch
    from test_every_method import batch, build

    method = build(name, generator={"kernel": 7})
    optimizers = method.optimizers()

    def update(key: str, loss: "torch.Tensor") -> None:
        optimizers[key].zero_grad(set_to_none=True)
        loss.backward()
        with torch.no_grad():
            for p in (p for group in optimizers[key].param_groups for p in group["params"]):
                if p.grad is not None:
                    p -= RATE * p.grad

    found = []
    for step in range(STEPS):
        torch.manual_seed(step)
        values = method.step({**batch(step), "step": step}, update)
        found.append({key: float(value.detach()) for key, value in sorted(values.items())})
    return found


def compare(before: dict[str, list[dict[str, float]]], after: dict[str, list[dict[str, float]]]) -> bool:
    same = set(before) == set(after)
    for name in sorted(set(before) & set(after)):
        pairs = [(a, b[key]) for b, steps in zip(before[name], after[name], strict=True) for key, a in steps.items()]
        worst = max(abs(a - b) / max(abs(b), 0.01) for a, b in pairs)
        print(f"{name}: {worst:.1e}")
        same &= worst <= TOLERANCE
    return same


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1].endswith(".json"):
        before, after = (json.loads(Path(path).read_text()) for path in sys.argv[1:])
        sys.exit(not compare(before, after))
    from medgen.methods import method_names

    print(json.dumps({name: losses(name) for name in sys.argv[1:] or method_names()}, indent=1))
