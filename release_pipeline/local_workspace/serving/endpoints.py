"""The life cycle of serving endpoints.

An update is stored before it is acknowledged. The active configuration serves until every entity of the pending one
is ready; then the record is stored, the routing table is exchanged between two requests, and processes that are no
longer named end after their last answer.
"""

import asyncio
import logging
import time
from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Any

from release_pipeline.local_workspace.caller import caller
from release_pipeline.local_workspace.errors import AlreadyExists, ApiError, Conflict, InvalidParameter, NotFound
from release_pipeline.local_workspace.serving.admission import Admission
from release_pipeline.local_workspace.serving.deployment import Deployment
from release_pipeline.local_workspace.serving.endpoint import Endpoint
from release_pipeline.local_workspace.serving.entity_logs import EntityLogs
from release_pipeline.local_workspace.serving.foundation_model import FoundationEndpoint
from release_pipeline.local_workspace.serving.gateway import inference_table, rate_limits
from release_pipeline.local_workspace.serving.inference_log import InferenceLog
from release_pipeline.local_workspace.serving.router import Router
from release_pipeline.local_workspace.serving.usage import UsageTracking, tracks_usage
from release_pipeline.local_workspace.serving.warm_processes import WarmProcesses
from release_pipeline.local_workspace.serving.worker_environment import WorkerEnvironments
from release_pipeline.local_workspace.state.endpoint_configuration import NAME, EndpointConfig, parse_config
from release_pipeline.local_workspace.state.endpoints import (
    IN_PROGRESS,
    NOT_UPDATING,
    UPDATE_FAILED,
    EndpointRecord,
    EndpointStore,
)

if TYPE_CHECKING:
    from release_pipeline.local_workspace.app import LocalWorkspace

logger = logging.getLogger(__name__)

SHUTDOWN_DRAIN_SECONDS = 5.0
IDLE_POLL_SECONDS = 1.0


class ServingEndpoints:
    """All endpoints of a workspace. Runs in the server's event loop; changes are made one at a time."""

    def __init__(self, workspace: "LocalWorkspace") -> None:
        self._workspace = workspace
        self._settings = workspace.settings
        self._store = EndpointStore(workspace.database)
        self._log = InferenceLog(self._settings.data_dir / "inference_log", workspace.sql, self._settings.faults)
        self._usage = UsageTracking(self._settings, workspace.sql)
        self._changes = asyncio.Lock()
        self._background: set[asyncio.Task[None]] = set()
        self._admission = Admission(workspace)
        self._environments = WorkerEnvironments(self._settings, workspace.secrets, workspace.tokens)
        self._warm = WarmProcesses(self._settings.keep_warm_seconds, self._end)
        self.endpoints: dict[str, Endpoint] = {}
        self.router = Router(self.endpoints, self._settings, workspace.access)

    async def start(self) -> None:
        """Bring back what was stored: processes of active configurations, and updates that were under way."""
        await self.router.start()
        self._log.start()
        self._usage.start()
        provided = FoundationEndpoint(self._settings, self._environments.of("", None))
        self.endpoints[provided.record.name] = provided
        for record in await asyncio.to_thread(self._store.load):
            endpoint = self.endpoints[record.name] = Endpoint(record)
            self._apply_gateway(endpoint)
            if record.config is not None:
                for entity in record.config.entities:
                    self._deployment(endpoint, record.config, entity.id).start(recovering=True)
                endpoint.activate()
                await self._note_served(endpoint)
            if record.config_update == IN_PROGRESS:
                self._begin_update(endpoint)
        self._in_background(self._scale_to_zero())

    async def stop(self) -> None:
        """End all scoring processes and flush the inference log; stored state stays."""
        tasks = [e.update for e in self.endpoints.values() if e.update is not None] + list(self._background)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        deployments = [each for e in self.endpoints.values() for each in e.deployments.values()]
        await asyncio.gather(*(each.stop(SHUTDOWN_DRAIN_SECONDS) for each in deployments), self._warm.stop())
        await self._environments.fork_server.stop()
        await self.router.stop()
        await self._log.stop()
        await self._usage.stop()

    def get(self, name: str) -> Endpoint:
        """The endpoint of that name.

        Raises:
            NotFound: There is none.
        """
        if name not in self.endpoints:
            raise NotFound(f"Endpoint with name '{name}' does not exist.")
        return self.endpoints[name]

    def by_id(self, endpoint_id: str) -> Endpoint:
        """The endpoint of that id, which is what permissions go by.

        Raises:
            NotFound: There is none.
        """
        for endpoint in self.endpoints.values():
            if endpoint.record.id == endpoint_id:
                return endpoint
        raise NotFound(f"Serving endpoint with id '{endpoint_id}' does not exist.")

    def view(self, endpoint: Endpoint) -> dict[str, Any]:
        """The endpoint as the API shows it."""
        admin = self._settings.user_name
        return endpoint.view(self._settings.url, caller(admin), admin)

    async def create(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Create an endpoint and begin to deploy its first configuration; the endpoint as the API shows it."""
        name = str(body.get("name") or "")
        if not NAME.fullmatch(name):
            raise InvalidParameter(
                f"Endpoint name {name!r}: use letters, digits, '-' and '_', at most 63, no '-' or '_' at the ends."
            )
        async with self._changes:
            if name in self.endpoints:
                raise AlreadyExists(f"Endpoint with name '{name}' already exists.", status=409)
            now = _now_ms()
            record = EndpointRecord(name, caller(self._settings.user_name), now, now)
            record.description = str(body.get("description") or "")
            record.tags = {str(tag["key"]): str(tag.get("value", "")) for tag in body.get("tags") or []}
            record.pending = await self._read_config(body.get("config") or {}, record)
            record.last_version = record.pending.version
            record.config_update = IN_PROGRESS
            endpoint = Endpoint(record)
            if body.get("rate_limits"):
                record.ai_gateway["rate_limits"] = body["rate_limits"]
            await self._set_gateway(endpoint, record.ai_gateway | dict(body.get("ai_gateway") or {}))
            await self.save(endpoint)
            self.endpoints[name] = endpoint
            self._begin_update(endpoint)
            return self.view(endpoint)

    async def update_config(self, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Begin to replace the configuration as a whole; the endpoint as the API shows it.

        Raises:
            Conflict: An update is in progress.
        """
        async with self._changes:
            endpoint = self.get(name)
            record = endpoint.record
            if record.config_update == IN_PROGRESS:
                raise Conflict(f"Endpoint '{name}' is being updated; wait until that update is done.")
            pending = await self._read_config(body, record)
            failed, record.pending = record.pending, pending
            record.config_update, record.failures, record.last_version = IN_PROGRESS, {}, pending.version
            await self.save(endpoint)
            self._remove_logs(endpoint, failed)
            self._begin_update(endpoint)
            return self.view(endpoint)

    async def change_tags(self, name: str, add: Mapping[str, str], delete: list[str]) -> dict[str, str]:
        """Remove tags, then set tags, so a key in both ends up set; all tags."""
        async with self._changes:
            endpoint = self.get(name)
            kept = {key: value for key, value in endpoint.record.tags.items() if key not in delete}
            endpoint.record.tags = kept | dict(add)
            await self.save(endpoint)
            return endpoint.record.tags

    async def change_gateway(self, name: str, gateway: Mapping[str, Any]) -> dict[str, Any]:
        """Replace the AI Gateway settings; the settings."""
        async with self._changes:
            endpoint = self.get(name)
            await self._set_gateway(endpoint, dict(gateway))
            await self.save(endpoint)
            await self._note_served(endpoint)
            return endpoint.record.ai_gateway

    async def save(self, endpoint: Endpoint) -> None:
        """Store the endpoint's record."""
        endpoint.record.updated_ms = _now_ms()
        await asyncio.to_thread(self._store.save, endpoint.record)

    async def delete(self, name: str) -> None:
        """Forget an endpoint at once and end its processes after their last answers."""
        async with self._changes:
            endpoint = self.get(name)
            if endpoint.update is not None:
                endpoint.update.cancel()
                await asyncio.gather(endpoint.update, return_exceptions=True)
            await asyncio.to_thread(self._store.delete, name)
            if endpoint.usage is not None:
                await asyncio.to_thread(self._usage.note_deletion, endpoint.record)
            del self.endpoints[name]
            failed, endpoint.record.config, endpoint.record.pending = endpoint.record.pending, None, None
            self._forget(endpoint)
            self._remove_logs(endpoint, failed)

    async def _read_config(self, body: Mapping[str, Any], record: EndpointRecord) -> EndpointConfig:
        config = parse_config(
            body,
            version=record.last_version + 1,
            creator=caller(self._settings.user_name),
            now_ms=_now_ms(),
            active=record.config,
        )
        who = record.creator, caller(self._settings.user_name)
        await self._admission.check(config, record.config, who)
        return config

    async def _set_gateway(self, endpoint: Endpoint, gateway: dict[str, Any]) -> None:
        name = endpoint.record.name
        table, before = inference_table(gateway, name), inference_table(endpoint.record.ai_gateway, name)
        if table and before and table != before:
            raise InvalidParameter("Disable the inference table before you give it another catalog, schema or prefix.")
        rate_limits(gateway)
        if table:
            try:
                faults = self._settings.faults
                await asyncio.to_thread(
                    self._workspace.sql.create_inference_table,
                    table,
                    faults.payload_shape,
                    change_feed=faults.change_data_feed,
                    derived=faults.derived_tables is not None,
                )
            except ApiError:
                raise
            except Exception as error:
                raise InvalidParameter(f"The inference table {table} cannot be created: {error}") from error
        endpoint.record.ai_gateway = gateway
        self._apply_gateway(endpoint)

    def _apply_gateway(self, endpoint: Endpoint) -> None:
        gateway = endpoint.record.ai_gateway
        table = inference_table(gateway, endpoint.record.name)
        endpoint.log = self._log.table(table) if table else None
        endpoint.usage = self._usage.log() if tracks_usage(gateway) else None
        endpoint.limit = rate_limits(gateway)

    def _deployment(self, endpoint: Endpoint, config: EndpointConfig, entity_id: str) -> Deployment:
        entity = next(entity for entity in config.entities if entity.id == entity_id)
        warm = self._warm.take(endpoint.record.name, entity)
        if warm is not None:
            endpoint.deployments[entity_id] = warm
            return warm
        path = self._workspace.registry.version_path(entity.entity_name, entity.entity_version)
        environment = self._environments.of(endpoint.record.creator, path)
        deployment = Deployment(self._settings, endpoint.record.name, entity, path, environment)
        endpoint.deployments[entity_id] = deployment
        return deployment

    def _begin_update(self, endpoint: Endpoint) -> None:
        endpoint.update = asyncio.create_task(self._update(endpoint))

    async def _update(self, endpoint: Endpoint) -> None:
        record = endpoint.record
        pending = record.pending
        assert pending is not None
        new = [
            self._deployment(endpoint, pending, entity.id)
            for entity in pending.entities
            if entity.id not in endpoint.deployments
        ]
        for deployment in new:
            if not deployment.started:
                deployment.start()
        fails = self._settings.faults.updates_to_fail > 0
        self._settings.faults.updates_to_fail -= fails
        await asyncio.sleep(self._settings.faults.update_seconds)
        outcomes = await asyncio.gather(*(deployment.settled() for deployment in new))
        async with self._changes:
            if all(outcomes) and not fails:
                record.config, record.pending, record.config_update = pending, None, NOT_UPDATING
                endpoint.activate()  # with no pause in between: whoever sees the one must find the other
                await self.save(endpoint)
                await self._note_served(endpoint)
            else:
                record.config_update = UPDATE_FAILED
                record.failures = {
                    each.entity.id: each.message for each, well in zip(new, outcomes, strict=True) if not well
                }
                await self.save(endpoint)
            self._forget(endpoint)

    async def _note_served(self, endpoint: Endpoint) -> None:
        if endpoint.usage is not None:
            await asyncio.to_thread(self._usage.note_served, endpoint.record)

    def _forget(self, endpoint: Endpoint) -> None:
        """End deployments that nothing needs: of entities no longer named, and of an update that failed."""
        record = endpoint.record
        active = {entity.id for entity in record.config.entities} if record.config else set()
        for entity_id in endpoint.deployments.keys() - active:
            deployment = endpoint.deployments.pop(entity_id)
            if not self._warm.keep(record.name, deployment):
                self._in_background(self._end(deployment, keep_logs=entity_id in endpoint.entity_ids()))

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _scale_to_zero(self) -> None:
        """End the processes of entities that may be scaled to zero and were not asked for long enough."""
        while True:
            await asyncio.sleep(IDLE_POLL_SECONDS)
            for endpoint in self.endpoints.values():
                for entity in endpoint.record.config.entities if endpoint.record.config else ():
                    deployment = endpoint.deployments[entity.id]
                    if entity.scale_to_zero_enabled and deployment.is_idle(self._settings.faults.scale_to_zero_seconds):
                        self._in_background(deployment.sleep())

    def _remove_logs(self, endpoint: Endpoint, failed: EndpointConfig | None) -> None:
        for entity in failed.entities if failed else ():
            if entity.id not in endpoint.entity_ids() and entity.id not in endpoint.deployments:
                EntityLogs(self._settings.data_dir, entity.id).remove()

    async def _end(self, deployment: Deployment, *, keep_logs: bool = False) -> None:
        await deployment.stop()
        if not keep_logs:
            deployment.logs.remove()


def _now_ms() -> int:
    return int(time.time() * 1000)
