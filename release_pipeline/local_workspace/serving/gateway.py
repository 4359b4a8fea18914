"""The AI Gateway settings of an endpoint: its inference table and its rate limits."""

import re
import time
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from release_pipeline.local_workspace.errors import InvalidParameter
from release_pipeline.local_workspace.serving.inference_log import TABLE_NAME

PERIOD_SECONDS = 60.0
ENDPOINT = "endpoint"


class RateLimits:
    """At most a number of requests in any minute: of the endpoint as a whole, of each user, and of those named.

    Args:
        limits: For each limit its key (``endpoint``, ``user`` or ``service_principal``), the principal that it names
            or an empty text, and the number.
    """

    def __init__(self, limits: Iterable[tuple[str, str, int]]) -> None:
        self._limits = tuple(limits)
        self._admitted: dict[tuple[str, str, str], deque[float]] = {}

    def admit(self, requester: str) -> bool:
        """Whether one more request of somebody may pass now; it is counted if so, and by no limit if not."""
        now = time.monotonic()
        windows: list[deque[float]] = []
        for key, principal, calls in self._limits:
            if principal not in ("", requester):
                continue
            window = self._admitted.setdefault((key, principal, "" if key == ENDPOINT else requester), deque())
            while window and window[0] <= now - PERIOD_SECONDS:
                window.popleft()
            if len(window) >= calls:
                return False
            windows.append(window)
        for window in windows:
            window.append(now)
        return True


def rate_limits(gateway: Mapping[str, Any]) -> RateLimits | None:
    """The limits that an endpoint has, or None. Those of groups are kept and apply to nobody: there are no groups.

    Raises:
        InvalidParameter: A limit is not a number of calls per minute, or its key is unknown.
    """
    limits: list[tuple[str, str, int]] = []
    for limit in gateway.get("rate_limits") or []:
        calls, key, principal = limit.get("calls"), limit.get("key") or ENDPOINT, str(limit.get("principal") or "")
        if type(calls) is not int or calls < 0 or limit.get("renewal_period") != "minute":
            raise InvalidParameter("Each of rate_limits needs calls, a whole number, and renewal_period 'minute'.")
        if key not in (ENDPOINT, "user", "service_principal", "user_group"):
            raise InvalidParameter("The key of a rate limit must be endpoint, user, service_principal or user_group.")
        if key != "user_group":
            limits.append((key, principal, calls))
    return RateLimits(limits) if limits else None


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
