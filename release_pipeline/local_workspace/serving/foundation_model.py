"""The endpoint that is there from the start, as on the service: a foundation model of ``system.ai``.

What serves it is a stand-in (:mod:`stand_in`), scaled to zero until the first request. Everybody may query it,
nobody may change or delete it, and nothing of it is stored.
"""

import uuid
from typing import Any, Final

from release_pipeline.local_workspace.serving.deployment import Deployment
from release_pipeline.local_workspace.serving.endpoint import Endpoint
from release_pipeline.local_workspace.serving.worker_environment import WorkerEnvironment
from release_pipeline.local_workspace.settings import Settings
from release_pipeline.local_workspace.state.endpoint_configuration import EndpointConfig, ServedEntity
from release_pipeline.local_workspace.state.endpoints import EndpointRecord

CATALOG: Final = "system"
SCHEMA: Final = "ai"
OWNER: Final = "System user"
MODEL: Final = "local_stand_in"
FULL_NAME: Final = f"{CATALOG}.{SCHEMA}.{MODEL}"
ENDPOINT: Final = "databricks-local-stand-in"
TASK: Final = "llm/v1/chat"
DESCRIPTION: Final = "Says again what it was told; stands in for a foundation model."


class FoundationEndpoint(Endpoint):
    """The stand-in's endpoint."""

    manageable = False

    def __init__(self, settings: Settings, environment: WorkerEnvironment) -> None:
        identity = uuid.uuid5(uuid.NAMESPACE_DNS, ENDPOINT).hex
        entity = ServedEntity(identity, ENDPOINT, FULL_NAME, "1", "Small", "CPU", True, {}, OWNER, 0)
        record = EndpointRecord(ENDPOINT, OWNER, 0, 0, identity)
        record.permissions = [{"group_name": "users", "permission_level": "CAN_QUERY"}]
        record.config = EndpointConfig(1, (entity,), {ENDPOINT: 100}, 0)
        record.last_version = 1
        super().__init__(record)
        self.deployments[identity] = Deployment(settings, ENDPOINT, entity, None, environment, asleep=True)
        self.activate()

    def view(self, url: str, reader: str, admin: str) -> dict[str, Any]:
        """The endpoint as the API shows it, with what it is for and which foundation model it serves."""
        answer = super().view(url, reader, admin) | {"permission_level": "CAN_QUERY", "task": TASK}
        model = {"name": FULL_NAME, "display_name": "Local stand-in", "description": DESCRIPTION}
        for entity in answer["config"]["served_entities"]:
            entity["foundation_model"] = model
        return answer
