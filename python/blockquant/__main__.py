"""`python -m blockquant`: the command line where no script was installed."""

import sys

from blockquant.cli import main

sys.exit(main())
