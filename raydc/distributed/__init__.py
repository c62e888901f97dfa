"""What workers tell each other, the Ray cluster that they run on, and who watches over them."""
