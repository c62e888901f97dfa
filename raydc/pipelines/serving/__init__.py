"""Answers over HTTP: a registered model on Ray Serve, which says of raw rows what batch assignment says of them."""
