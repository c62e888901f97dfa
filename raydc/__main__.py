"""python -m raydc"""

import sys

from raydc.cli.main import main

sys.exit(main())
