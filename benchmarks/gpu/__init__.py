"""What a GPU answers beside the CPU, and how fast: `make gpu`, or python -m benchmarks.gpu --help."""
