"""Tracers: recognisable requests to one served entity.

A row of the inference table carries an entity id that no API maps to a version for ordinary users. A tracer's row
gives that mapping, proves that logging works, and its arrival tells the table's lag. Tracers are never evidence.

Anybody who may ask the endpoint may choose such an id. So a tracer counts only if its id is in the evidence table,
where it is written before the tracer is sent; any other row is a user's, whatever it calls itself.
"""

import uuid
from collections.abc import Mapping
from typing import Any

from release_pipeline.workspace.endpoint import Endpoint, ServedEntity

PREFIX = "release-pipeline-tracer/"
_DEFAULT_BODY: Mapping[str, Any] = {"input": [{"role": "user", "content": "release pipeline tracer"}]}


def tracer_id(version: str) -> str:
    """A new client request id that says which version the tracer was sent to."""
    return f"{PREFIX}{version}/{uuid.uuid4().hex}"


def version_of(client_request_id: str) -> str | None:
    """The version that a tracer with this client request id was sent to, None for any other request."""
    if not client_request_id.startswith(PREFIX):
        return None
    return client_request_id.removeprefix(PREFIX).split("/")[0]


def send_tracer(endpoint: Endpoint, entity: ServedEntity, example: Mapping[str, Any] | None, noted: str) -> None:
    """Send one tracer.

    Args:
        endpoint: The endpoint.
        entity: Who is asked.
        example: A request that the model answers, by default an agent's.
        noted: A :func:`tracer_id` that the evidence table holds.

    Raises:
        EndpointError: The entity did not answer with success.
    """
    body = {**(example or _DEFAULT_BODY), "client_request_id": noted}
    endpoint.query_entity(entity.name, body)
