"""ray job submit --working-dir . -- python jobs/tune.py ...: the arguments of `raydc tune`."""

import sys

from raydc.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["tune", *sys.argv[1:]]))
