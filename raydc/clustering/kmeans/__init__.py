"""k-means whose sums are integers, so that any split of the rows ends in the same bits."""
