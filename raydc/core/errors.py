"""Errors that the command line tells apart, without importing what raises them."""


class Occupied(RuntimeError):
    """Another process works in this directory; the message says which."""


class WorkersLost(RuntimeError):
    """Workers were lost too often; the same command goes on."""
