"""ray job submit --working-dir . -- python jobs/train.py ...: the arguments of `raydc train`."""

import sys

from raydc.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
