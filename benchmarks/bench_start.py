"""Time until medgen can be used: its import and its help, compared with the import of MONAI. Each is a new process."""

import os
import sys

from timing import ROOT, compare, medgen_command, program

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def run(*command: str) -> int:
    """Exit code 0, which is all that the two have in common; otherwise an error."""
    program(command, env=ENVIRONMENT)
    return 0


def main() -> None:
    def monai() -> int:
        return run(sys.executable, "-c", "import monai")

    def imported() -> int:
        return run(sys.executable, "-c", "import medgen")

    def used() -> int:
        return run(sys.executable, "-c", "import medgen; medgen.load")

    def shows_help() -> int:
        return run(*medgen_command("--help"))

    compare(__file__, "import medgen (import monai)", imported, monai, tolerance=0, rounds=3)
    compare(__file__, "import medgen and its functions (import monai)", used, monai, tolerance=0, rounds=3)
    compare(__file__, "medgen --help (import monai)", shows_help, monai, tolerance=0, rounds=3)


if __name__ == "__main__":
    main()
