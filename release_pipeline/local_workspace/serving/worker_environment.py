"""The environment of a scoring process: its Python, its variables, its secrets, and short-lived credentials of its own.

The credentials are what the service mounts into its containers: a file that databricks-sdk reads by itself, again and
again, when nothing else says who it is (its strategy ``model-serving``). The process stands for its model version and
may use what that declared; see :mod:`scopes` and :mod:`access`.
"""

import asyncio
import json
import logging
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Final

from release_pipeline.local_workspace.caller import Caller
from release_pipeline.local_workspace.child_process import inherited
from release_pipeline.local_workspace.serving.declared_resources import Declared, read_declared
from release_pipeline.local_workspace.serving.model_environments import Interpreter, ModelEnvironments
from release_pipeline.local_workspace.serving.redaction import Redactor
from release_pipeline.local_workspace.serving.secret_references import resolved
from release_pipeline.local_workspace.serving.worker_process import ForkServer
from release_pipeline.local_workspace.settings import Settings
from release_pipeline.local_workspace.short_tokens import ShortTokens
from release_pipeline.local_workspace.state.endpoint_configuration import ServedEntity
from release_pipeline.local_workspace.state.secrets import SecretStore

logger = logging.getLogger(__name__)

#: The name that databricks-sdk looks for, in the folder that ``SERVING_CREDENTIALS_DIR`` names.
TOKEN_FILE: Final = "model-dependencies-oauth-token"


class WorkerEnvironments:
    """Makes the environments of all scoring processes of a workspace."""

    def __init__(self, settings: Settings, secrets: SecretStore, tokens: ShortTokens) -> None:
        self.settings = settings
        self.secrets = secrets
        self.tokens = tokens
        self.interpreters = ModelEnvironments(settings)
        self.fork_server = ForkServer()
        self.folder = settings.data_dir / "serving" / "credentials"
        # What a killed server left stands for nobody any more.
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, mode=0o700)

    def of(self, creator: str, model_path: Path | None) -> "WorkerEnvironment":
        """The environment of a process that serves a model version for an endpoint of ``creator``."""
        return WorkerEnvironment(self, creator, model_path)


class WorkerEnvironment:
    """The environment of the scoring processes of one entity, over all their restarts.

    Attributes:
        declared: What the model version declares.
        fork_server: What forks processes; the same for all entities.
    """

    def __init__(self, shared: WorkerEnvironments, creator: str, model_path: Path | None) -> None:
        self.declared = read_declared(model_path) if model_path else Declared()
        self.fork_server = shared.fork_server
        self._model_path = model_path
        self._shared = shared
        self._creator = creator
        self._holder = str(uuid.uuid4())
        self._folder = shared.folder / self._holder
        self._rotation: asyncio.Task[None] | None = None
        self._on_behalf: dict[str, tuple[str, float]] = {}
        self._experiment = ""
        self._redactor = Redactor()

    async def python(self, note: Callable[[str], None]) -> Interpreter:
        """What runs the model, built first where that is needed; ``note`` takes lines for the build log.

        Raises:
            EnvironmentFailed: The logged requirements cannot be installed.
        """
        return await self._shared.interpreters.python(self._model_path, note)

    def variables(self, entity: ServedEntity) -> tuple[dict[str, str], list[str], Redactor]:
        """Everything for one start: the variables, the names of those with secrets, and what hides the secrets.

        Raises:
            ApiError: A secret that the entity refers to is gone.
        """
        settings = self._shared.settings
        own, hidden = resolved(self._shared.secrets, entity, self._creator)
        secret_names = [name for name, value in own.items() if value != entity.environment_vars[name]]
        environment = inherited()
        # mlflow waits for minutes when a trace has no experiment, so there is always one.
        environment["MLFLOW_EXPERIMENT_ID"] = "0"
        environment["MLFLOW_ASYNC_TRACE_LOGGING_MAX_INTERVAL_MILLIS"] = "500"
        environment["MLFLOW_DISABLE_TELEMETRY"] = "true"
        environment["MLFLOW_TRACKING_URI"] = "databricks"
        environment["MLFLOW_REGISTRY_URI"] = "databricks-uc"
        environment["DATABRICKS_HOST"] = settings.url
        # No profile of whoever started the server, whose home is inherited.
        environment["DATABRICKS_CONFIG_FILE"] = str(self._folder / "none")
        # The entity's own variables win: credentials among them are how a model authenticates by hand.
        environment |= own
        self._experiment = environment["MLFLOW_EXPERIMENT_ID"]
        self._redactor = Redactor([*hidden, settings.token])
        # The name that mlflow knows, IS_IN_DB_MODEL_SERVING_ENV, would send traces elsewhere.
        return (
            environment
            | {
                "IS_IN_DATABRICKS_MODEL_SERVING_ENV": "true",
                "SERVING_CREDENTIALS_DIR": str(self._folder),
                "DATABRICKS_MODEL_SERVING_HOST_URL": settings.url,
            },
            secret_names,
            self._redactor,
        )

    def open(self) -> None:
        """Write the first credentials, and new ones whenever half of their life is over."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._write()
        if self._rotation is None:
            self._rotation = asyncio.create_task(self._rotate())

    def close(self) -> None:
        """Refuse all credentials that the process was given, from now on and for good."""
        if self._rotation is not None:
            self._rotation.cancel()
            self._rotation = None
        self._shared.tokens.revoke(self._holder)
        self._on_behalf.clear()
        shutil.rmtree(self._folder, ignore_errors=True)

    def suspend(self) -> None:
        """Refuse the credentials while the process serves nobody."""
        self._shared.tokens.suspend(self._holder)

    def resume(self) -> None:
        """Take the credentials again."""
        self._shared.tokens.resume(self._holder)

    def token_for(self, user: str) -> str:
        """A token with which the model acts on behalf of a user, within the scopes that it declared; empty without."""
        if not self.declared.api_scopes:
            return ""
        now, seconds = asyncio.get_running_loop().time(), self._shared.settings.faults.credential_seconds
        token, renew = self._on_behalf.get(user, ("", 0.0))
        if now >= renew:
            token = self._shared.tokens.issue(self._holder, Caller(user, scopes=self.declared.api_scopes), seconds)
            self._on_behalf[user] = token, now + seconds / 2
        return token

    async def _rotate(self) -> None:
        while True:
            await asyncio.sleep(self._shared.settings.faults.credential_seconds / 2)
            try:
                self._write()
            except OSError as error:
                # The next round may find room again; until then the file holds what still opens something.
                logger.warning("credentials of a served model could not be renewed: %s", error.strerror)

    def _write(self) -> None:
        who = Caller(
            self._holder,
            resources=frozenset(self.declared.resources),
            experiment=self._experiment,
            hide=self._redactor.redact_json,
        )
        token = self._shared.tokens.issue(self._holder, who, self._shared.settings.faults.credential_seconds)
        file = self._folder / TOKEN_FILE
        temporary = file.with_suffix(".writing")
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
            json.dump({"OAUTH_TOKEN": [{"oauthTokenValue": token}]}, opened)
        temporary.replace(file)
