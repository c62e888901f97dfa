"""From a configuration to a trained model: the loop, Ray Train around it, checkpoints, k-means of streamed rows."""
