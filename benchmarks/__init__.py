"""What the figures of the manual come from. Every program here is runnable: python -m benchmarks.NAME --help."""
