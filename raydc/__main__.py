"""python -m raydc"""

import sys

from raydc.cli import main

sys.exit(main())
