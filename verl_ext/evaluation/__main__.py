"""`python -m verl_ext.evaluation`: see `command`."""

import sys

from verl_ext.evaluation.command import main

if __name__ == "__main__":
    sys.exit(main())
