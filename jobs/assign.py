"""ray job submit --working-dir . -- python jobs/assign.py ...: the arguments of `raydc assign`."""

import sys

from raydc.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["assign", *sys.argv[1:]]))
