"""`evolution-operator` and `python -m evolution_operator`."""

import os
import sys

from evolution_operator.settings import WrongSettings, read_settings


def main() -> None:
    """Run until SIGTERM; exit code 0 then, 1 when the cluster cannot be worked with, 2 for wrong settings."""
    try:
        settings = read_settings(sys.argv[1:])
    except WrongSettings as error:
        sys.stderr.write(f"evolution-operator: {error}\n")
        sys.exit(2)
    from evolution_operator.app import run_operator  # slow to import, and of no use with wrong settings

    code = run_operator(settings)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # threads that wait for a store which does not answer would hold the process for a minute


if __name__ == "__main__":
    main()
