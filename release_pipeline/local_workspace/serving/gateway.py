"""The AI Gateway settings of an endpoint: its inference table and its rate limit."""

import re
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from release_pipeline.local_workspace.errors import InvalidParameter
from release_pipeline.local_workspace.serving.inference_log import TABLE_NAME

PERIOD_SECONDS = 60.0


class RateLimit:
    """At most a number of requests in any minute."""

    def __init__(self, calls: int) -> None:
        self.calls = calls
        self._admitted: deque[float] = deque()

    def admit(self) -> bool:
        """Whether one more request may pass now; it is counted if so."""
        now = time.monotonic()
        while self._admitted and self._admitted[0] <= now - PERIOD_SECONDS:
            self._admitted.popleft()
        if len(self._admitted) >= self.calls:
            return False
        self._admitted.append(now)
        return True


def rate_limit(gateway: Mapping[str, Any]) -> RateLimit | None:
    """The strictest limit that applies to the one user there is, or None.

    Raises:
        InvalidParameter: A limit is not a number of calls per minute.
    """
    calls: list[int] = []
    for limit in gateway.get("rate_limits") or []:
        number = limit.get("calls")
        if not isinstance(number, int) or number < 0 or limit.get("renewal_period") != "minute":
            raise InvalidParameter("Each of rate_limits needs calls, a whole number, and renewal_period 'minute'.")
        calls.append(number)
    return RateLimit(min(calls)) if calls else None


def inference_table(gateway: Mapping[str, Any], endpoint: str) -> str | None:
    """The full name of the inference table, or None when it is not enabled.

    Raises:
        InvalidParameter: The catalog or the schema is missing, or a part is not a name.
    """
    config = gateway.get("inference_table_config") or {}
    if not config.get("enabled"):
        return None
    prefix = config.get("table_name_prefix") or re.sub(r"\W", "_", endpoint)
    name = f"{config.get('catalog_name') or ''}.{config.get('schema_name') or ''}.{prefix}_payload"
    if not TABLE_NAME.fullmatch(name):
        raise InvalidParameter(
            "inference_table_config needs catalog_name and schema_name, and names of letters, digits, '_' and '-'."
        )
    return name
