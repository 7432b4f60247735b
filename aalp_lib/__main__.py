"""`python -m aalp_lib` is the command `aalp`; torchrun starts it in this form."""

import sys

from aalp_lib.cli import main

sys.exit(main())
