"""`python -m evolution_trainer ORDER.json`: do one order; `--resident`: one order per line of standard input."""

import sys

from evolution_trainer.worker import main

if __name__ == "__main__":
    sys.exit(main())
