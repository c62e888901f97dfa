"""Errors that end a search."""


class SearchError(RuntimeError):
    """The search cannot give an answer; what is finished is kept."""


class SearchInterrupted(RuntimeError):
    """The search was asked to stop; the same command goes on."""
