"""The model in the Unity Catalog registry: versions, aliases and the tags that tell where a version came from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from release_pipeline.errors import RegistryError, first_sentence
from release_pipeline.workspace.client import Workspace

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

CHALLENGER_ALIAS = "challenger"
TAG_RELEASE = "release_pipeline.release"
TAG_STATUS = "release_pipeline.status"
TAG_REASON = "release_pipeline.reason"
TAG_DIGEST = "release_pipeline.digest"
#: Numbers of rejected versions of the same content that a person has forced this one past, with commas.
TAG_FORCED = "release_pipeline.forced"
#: Status of a version whose release is under way.
CHALLENGER = "challenger"
REJECTED = "rejected"
#: Status of a version whose deployment, or one of its steps, could not be made.
FAILED = "failed"
#: Status of a version whose release was replaced by another; it may be released again.
SUPERSEDED = "superseded"
TAG_LIMIT = 250
#: Versions that one call of a search answers at most.
PAGE_ROWS = 1000


@dataclass(frozen=True)
class Version:
    """One version of the model. ``version`` is text everywhere; ``tags`` are read per version, searches lose them."""

    version: str
    run_id: str
    status: str
    tags: Mapping[str, str] = field(default_factory=dict)


class Registry:
    """The versions of one registered model."""

    def __init__(self, workspace: Workspace, name: str) -> None:
        self._workspace = workspace
        self.name = name

    def version_of_alias(self, alias: str) -> str | None:
        """The version that ``alias`` names, or None.

        Raises:
            RegistryError: The registry refused to say.
        """
        from mlflow.exceptions import MlflowException

        try:
            return str(self._workspace.mlflow.get_model_version_by_alias(self.name, alias).version)
        except (MlflowException, TimeoutError) as error:
            if _missing(error):
                return None
            raise RegistryError(
                f"the alias {alias} of {self.name} could not be read: {first_sentence(error)}"
            ) from None

    def get(self, version: str) -> Version | None:
        """One version with its tags, or None where it does not exist."""
        from mlflow.exceptions import MlflowException

        try:
            return _version(self._workspace.mlflow.get_model_version(self.name, version))
        except (MlflowException, TimeoutError) as error:
            if _missing(error):
                return None
            raise RegistryError(
                f"version {version} of {self.name} could not be read: {first_sentence(error)}"
            ) from None

    def versions(self) -> list[Version]:
        """All versions, newest first, each read by itself because the search answers no tags."""
        found = (self.get(version.version) for version in self._search())
        return [version for version in found if version is not None]

    def versions_of_run(self, run_id: str) -> list[Version]:
        """Versions of what was logged in one MLflow run, newest first, without their tags, in one call."""
        return [version for version in self._search() if version.run_id == run_id]

    def _search(self) -> list[Version]:
        from mlflow.exceptions import MlflowException

        found, token = list["ModelVersion"](), ""
        try:
            while True:
                page = self._workspace.mlflow.search_model_versions(
                    f"name='{self.name}'", PAGE_ROWS, page_token=token or None
                )
                found += page
                if not (token := page.token or ""):  # a page may be short, or empty, and not be the last
                    break
        except (MlflowException, TimeoutError) as error:
            raise RegistryError(f"the versions of {self.name} could not be read: {first_sentence(error)}") from None
        rows = [Version(str(row.version), row.run_id or "", str(row.status)) for row in found]
        return sorted(rows, key=lambda version: int(version.version), reverse=True)

    def set_alias(self, alias: str, version: str) -> None:
        """Point ``alias`` at ``version``.

        Raises:
            RegistryError: The registry refused; setting an alias needs MANAGE on the model, or its ownership.
        """
        self._write(
            f"set the alias {alias} of {self.name} to version {version} (it needs MANAGE on the model, or ownership)",
            lambda client: client.set_registered_model_alias(self.name, alias, version),
        )

    def delete_alias(self, alias: str) -> None:
        """Remove ``alias``; nothing happens where it does not exist."""
        if self.version_of_alias(alias) is not None:
            self._write(
                f"delete the alias {alias} of {self.name}",
                lambda client: client.delete_registered_model_alias(self.name, alias),
            )

    def tag(self, version: str, tags: Mapping[str, str]) -> None:
        """Set tags on a version; long values are cut at the registry's limit."""
        for key, value in tags.items():
            self._write(
                f"tag version {version} of {self.name}",
                lambda client, key=key, value=value: client.set_model_version_tag(
                    self.name, version, key, value[:TAG_LIMIT]
                ),
            )

    def _write(self, what: str, call: Any) -> None:
        from mlflow.exceptions import MlflowException

        try:
            call(self._workspace.mlflow)
        except (MlflowException, TimeoutError) as error:
            raise RegistryError(f"could not {what}: {first_sentence(error)}") from None


def _version(answer: "ModelVersion") -> Version:
    return Version(
        version=str(answer.version), run_id=answer.run_id or "", status=str(answer.status), tags=dict(answer.tags or {})
    )


def _missing(error: Exception) -> bool:
    code = getattr(error, "error_code", "")
    return code in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND", "MODEL_VERSION_DOES_NOT_EXIST")
