"""`python -m fieldmark` is the command line."""

import sys

from fieldmark.cli import main

sys.exit(main())
