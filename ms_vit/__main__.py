"""`python -m ms_vit VERB ...` is `ms-vit VERB ...`."""

import sys

from ms_vit.cli import main

sys.exit(main())
