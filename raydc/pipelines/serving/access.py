"""Who is answered: whoever gives the token, or, where none is asked for, this machine alone."""

import hashlib
import hmac
import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from raydc.core.settings import SettingsError
from raydc.distributed.ray_cluster import NotPermitted
from raydc.pipelines.serving.settings import Serving

TOKEN = "RAYDC_SERVE_TOKEN"
"""Environment variable with the token."""
SHORTEST = 16
"""Characters of a token at least."""


@dataclass(frozen=True)
class Access:
    """Decides by the headers of a request. It knows the token's hash alone, and can be handed to any process."""

    digest: bytes | None
    """sha256 of the token; none where none is asked for."""
    local: bool
    """Whether requests have to be addressed to this machine by name, as a web page from elsewhere cannot do."""

    def refuses(self, headers: Mapping[str, str]) -> str | None:
        """Why a request with these headers, by names in lower case, is not answered; None if it is."""
        if self.digest is not None:
            kind, _, token = headers.get("authorization", "").partition(" ")
            given = hashlib.sha256(token.strip().encode()).digest()
            if not hmac.compare_digest(given, self.digest) or kind.lower() != "bearer":
                return "expected the header 'Authorization: Bearer TOKEN' with the server's token"
        elif self.local and not is_loopback(_host(headers.get("host", ""))):
            return "expected a request to localhost: for other names start the server with a token"
        return None


def access(serving: Serving, host: str | None) -> Access:
    """Who is answered at this address; None is one that is not known, and may be reached from anywhere.

    NotPermitted if it may, no token is given, and the settings do not say that it is public. SettingsError for a token
    that is none.
    """
    digest, local = token_digest(serving.token_file), host is not None and is_loopback(host)
    if digest is None and not local and not serving.public:
        raise NotPermitted(
            "whoever reaches this address would be answered: give a token, by --token-file FILE or the environment's "
            f"{TOKEN} (one is made by: python -c 'import secrets; print(secrets.token_urlsafe())'), or --public true"
        )
    return Access(digest, local and not serving.public)


def token_digest(file: str | None) -> bytes | None:
    """sha256 of the token in the file, else of that in the environment; None where there is neither."""
    try:
        token = os.environ.get(TOKEN) if file is None else Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise SettingsError(f"token_file: {file} cannot be read: {problem}") from None
    if token is None:
        return None
    token = token.strip()
    if len(token) < SHORTEST or not token.isascii() or any(map(str.isspace, token)):
        where = TOKEN if file is None else f"token_file {file}"
        raise SettingsError(f"{where}: expected one word of {SHORTEST} ASCII characters or more")
    return hashlib.sha256(token.encode()).digest()


def is_loopback(host: str) -> bool:
    """Whether an address, or localhost, is reached from this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _host(header: str) -> str:
    """The host of a Host header, without the port."""
    return header[1:].partition("]")[0] if header.startswith("[") else header.partition(":")[0]
