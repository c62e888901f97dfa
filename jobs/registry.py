"""ray job submit --working-dir . -- python jobs/registry.py flush ...: the arguments of `raydc registry`."""

import sys

from raydc.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["registry", *sys.argv[1:]]))
