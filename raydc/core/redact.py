"""What is written down or shown holds no passwords."""

import re

CREDENTIALS = re.compile(r"(\w+://)[^/\s]*@")
SECRET_PARAMETERS = re.compile(
    r"([?&][^=&\s]*(?:token|secret|password|signature|credential|key)[^=&\s]*=)[^&\s'\"]+", re.I
)


def redact(text: str) -> str:
    """Text without the user names and passwords of URLs in it, and without secrets among their parameters."""
    return SECRET_PARAMETERS.sub(r"\1***", CREDENTIALS.sub(r"\1***@", text))


def holds_secret(uri: str) -> bool:
    """Whether a URI holds what must not be written down."""
    return redact(uri) != uri
