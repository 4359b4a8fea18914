"""What a request leaves for the inference table: whether it gets a row, and what the row holds."""

import hashlib
import json
from typing import Any

from release_pipeline.local_workspace.settings import Faults
from release_pipeline.local_workspace.state.endpoint_configuration import ServedEntity


def is_logged(faults: Faults, request_id: str, status: int) -> bool:
    """Whether a request gets a row: it is sampled, its status is logged, and tables are not frozen."""
    if faults.freeze_inference_tables or status in faults.unlogged_statuses:
        return False
    return faults.sampling_fraction >= 1 or _share(request_id) < faults.sampling_fraction


def logged_row(
    faults: Faults, endpoint: str, entity: ServedEntity, request: bytes, response: bytes | None
) -> dict[str, Any]:
    """The part of a row that follows from the bodies and from who answered.

    Args:
        faults: The limit of a body, and the share of requests that is sampled.
        endpoint: The endpoint's name.
        entity: What answered.
        request: The request's body.
        response: The answer's body; None for one that is over the limit anyway.
    """
    errors: list[str] = []

    def text(body: bytes | None, error_code: str) -> str | None:
        if body is None or len(body) > faults.body_limit_bytes:
            errors.append(error_code)
            return None
        return body.decode(errors="replace")

    return {
        "client_request_id": _client_request_id(request),
        "sampling_fraction": faults.sampling_fraction,
        "request": text(request, "MAX_REQUEST_SIZE_EXCEEDED"),
        "response": text(response, "MAX_RESPONSE_SIZE_EXCEEDED"),
        "logging_error_codes": errors,
        "served_entity_id": entity.id,
        "endpoint_name": endpoint,
        "entity_name": entity.name,
        "model_name": entity.entity_name,
        "model_version": entity.entity_version,
    }


def _client_request_id(body: bytes) -> str | None:
    if b'"client_request_id"' not in body:
        return None
    try:
        value = json.loads(body).get("client_request_id")
    except (ValueError, AttributeError, RecursionError):
        return None
    # Half of a surrogate pair cannot be stored.
    return value.encode(errors="replace").decode() if isinstance(value, str) else None


def _share(request_id: str) -> float:
    """A number in [0, 1) that only the id decides."""
    return int.from_bytes(hashlib.md5(request_id.encode(), usedforsecurity=False).digest()[:4]) / 2**32
