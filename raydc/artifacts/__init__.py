"""What training leaves behind: a model as files."""
