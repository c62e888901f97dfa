"""What the README's figures come from. Every program here is runnable: python -m benchmarks.NAME --help."""
