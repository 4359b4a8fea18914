"""Short-lived tokens: for what a model version may use, and for what its agent may do on behalf of a user.

They are kept in memory only: every scoring process ends with the server, and a new one gets new tokens.
"""

import hashlib
import secrets
import threading
import time
from typing import Final

from release_pipeline.local_workspace.caller import Caller

#: How every token begins that the workspace gives out; what is logged is searched for it.
PREFIX: Final = "dapi"


class ShortTokens:
    """Tokens that end by themselves, or earlier when their holder is suspended or revoked."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tokens: dict[str, tuple[str, Caller, float]] = {}
        self._suspended: set[str] = set()

    def issue(self, holder: str, who: Caller, seconds: float) -> str:
        """A token that stands for ``who`` for so long.

        Args:
            holder: What the token is given to; `suspend` and `revoke` go by it.
            who: Whose requests the token makes.
            seconds: How long it is taken.
        """
        token = f"{PREFIX}s{secrets.token_hex(24)}"
        now = time.monotonic()
        with self._lock:
            self._tokens = {digest: each for digest, each in self._tokens.items() if each[2] > now}
            self._tokens[token_digest(token.encode())] = (holder, who, now + seconds)
        return token

    def of(self, token: bytes) -> Caller | None:
        """Whom a token stands for; None for one that is unknown, over, revoked or suspended."""
        # Looked up by its digest: how long that takes tells nothing of the token.
        holder, who, end = self._tokens.get(token_digest(token), ("", None, 0.0))
        return who if end > time.monotonic() and holder not in self._suspended else None

    def suspend(self, holder: str) -> None:
        """Refuse the holder's tokens until `resume`."""
        with self._lock:
            self._suspended.add(holder)

    def resume(self, holder: str) -> None:
        """Take the holder's tokens again."""
        with self._lock:
            self._suspended.discard(holder)

    def revoke(self, holder: str) -> None:
        """Forget all tokens of the holder."""
        with self._lock:
            self._tokens = {digest: each for digest, each in self._tokens.items() if each[0] != holder}
            self._suspended.discard(holder)


def token_digest(token: bytes) -> str:
    """What a token is looked up by: how long that takes tells nothing of the token."""
    return hashlib.sha256(token).hexdigest()
