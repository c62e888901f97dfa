"""What the commands do with rows and models, in the order that loses nothing."""
