"""`medgen.evaluate` with the paths in the order truth, converted, results."""

from medgen import api


def evaluate(reference, prediction, out, **given):
    return api.evaluate(prediction, out, reference=reference, **given)
