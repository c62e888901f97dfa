"""k-means over rows of any number: an actor that counts every row exactly once."""
