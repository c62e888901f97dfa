"""ray job submit --working-dir . -- python jobs/report.py ...: the arguments of `raydc report`."""

import sys

from raydc.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["report", *sys.argv[1:]]))
