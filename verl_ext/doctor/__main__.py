"""See `verl_ext.doctor.command`."""

import sys

from verl_ext.doctor.command import main

if __name__ == "__main__":
    sys.exit(main())
