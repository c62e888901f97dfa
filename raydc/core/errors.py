"""Errors that the command line tells apart, without importing what raises them."""


class Occupied(RuntimeError):
    """Another process works in this directory; the message says which."""
