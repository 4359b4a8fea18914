"""The part of a release's YAML about its serving endpoint: size, environment, tags, rate limits, permissions."""

import re
from collections.abc import Iterable
from typing import Literal

from pydantic import Field, field_validator, model_validator

from release_pipeline.spec_gate import Strict
from release_pipeline.spec_sentences import SECRET_WORD

_ENDPOINT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_SECRET_REFERENCE = re.compile(r"\{\{secrets/[^/{}\s]+/[^/{}\s]+\}\}")
_APPLICATION_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
#: Tags that every release writes itself: whose releases the endpoint belongs to, and where its traces are.
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OWN_TAGS = ("release_pipeline", "MONITOR_EXPERIMENT_ID")


class RateLimit(Strict):
    """A number of calls per minute that the endpoint's AI Gateway lets pass; the next one is answered with 429."""

    calls: int = Field(ge=1, description="Calls per minute.")
    key: Literal["endpoint", "user", "user_group", "service_principal"] = Field(
        default="endpoint",
        description="What is counted: all calls of the `endpoint`, those of each `user`, or those of one principal.",
    )
    principal: str = Field(
        default="",
        description="The user, group or service principal (application id) that the limit is for; `user` without one "
        "is the limit of everybody who has none of their own.",
    )

    @model_validator(mode="after")
    def _principal_where_it_belongs(self) -> "RateLimit":
        if self.key in ("user_group", "service_principal") and not self.principal:
            raise ValueError(f"a limit with key {self.key} is for one principal; name it in `principal`")
        if self.key == "endpoint" and self.principal:
            raise ValueError(
                "a limit with key endpoint is for everybody; take `principal` out, or set `key` to user, user_group or "
                "service_principal"
            )
        if self.key == "service_principal":
            _check_application_id(self.principal)
        return self


class Permission(Strict):
    """What somebody may do with the endpoint."""

    user: str = Field(default="", description="Name of a user. One of `user`, `group` and `service_principal`.")
    group: str = Field(default="", description="Name of a group.")
    service_principal: str = Field(default="", description="Application id of a service principal.")
    level: Literal["CAN_VIEW", "CAN_QUERY", "CAN_MANAGE"] = Field(
        description="The permission; each has those before it."
    )

    @model_validator(mode="after")
    def _one_principal(self) -> "Permission":
        if len([each for each in (self.user, self.group, self.service_principal) if each]) != 1:
            raise ValueError("name exactly one of `user`, `group` and `service_principal`")
        if self.service_principal:
            _check_application_id(self.service_principal)
        return self

    @property
    def principal(self) -> tuple[str, str]:
        """How permission calls name it: the field, and the name."""
        if self.user:
            return "user_name", self.user
        if self.group:
            return "group_name", self.group
        return "service_principal_name", self.service_principal


class EndpointPart(Strict):
    """The serving endpoint that the release goes to."""

    name: str = Field(default="", description="Endpoint name; empty means agents_<catalog>-<schema>-<model>.")
    workload_size: Literal["Small", "Medium", "Large"] = Field(default="Small", description="Compute size.")
    scale_to_zero: bool = Field(default=False, description="Let an idle served entity stop.")
    environment: dict[str, str] = Field(
        default_factory=dict, description="Environment variables; secrets only as {{secrets/scope/key}}."
    )
    tags: dict[str, str] = Field(
        default_factory=dict, description="Tags of the endpoint; set by each release, others stay."
    )
    rate_limits: tuple[RateLimit, ...] = Field(
        default=(), description="Rate limits of its AI Gateway; set by each release, others stay."
    )
    permissions: tuple[Permission, ...] = Field(
        default=(), description="Who may do what with it; given by each release, nothing is taken away."
    )
    tracing: bool = Field(default=True, description="Record an MLflow trace per request (ENABLE_MLFLOW_TRACING).")
    ready_timeout_seconds: int = Field(
        default=1800, ge=10, le=7200, description="How long an update may take; the service needs up to 30 minutes."
    )

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        if value and not _ENDPOINT_NAME.fullmatch(value):
            raise ValueError("must be 1 to 63 letters, digits, hyphens and underscores")
        return value

    @field_validator("environment")
    @classmethod
    def _no_clear_secrets(cls, value: dict[str, str]) -> dict[str, str]:
        for key, text in value.items():
            if not _VARIABLE.fullmatch(key):
                raise ValueError(f"{key!r} is no name of a variable; use letters, digits and underscores")
            if SECRET_WORD.search(key) and not _SECRET_REFERENCE.fullmatch(text):
                # The value is never repeated in the message.
                raise ValueError(f"{key} looks like a secret; write it as a reference {{{{secrets/scope/key}}}}")
        return value

    @field_validator("tags")
    @classmethod
    def _not_our_own(cls, value: dict[str, str]) -> dict[str, str]:
        for key in _OWN_TAGS:
            if key in value:
                raise ValueError(f"the tag {key} is written by every release itself; take it out")
        return value

    @field_validator("rate_limits")
    @classmethod
    def _one_limit_each(cls, value: tuple[RateLimit, ...]) -> tuple[RateLimit, ...]:
        if twice := _twice((limit.key, limit.principal) for limit in value):
            raise ValueError(f"{' '.join(twice).strip()} has two limits; keep one")
        return value

    @field_validator("permissions")
    @classmethod
    def _one_level_each(cls, value: tuple[Permission, ...]) -> tuple[Permission, ...]:
        if twice := _twice(permission.principal for permission in value):
            raise ValueError(f"{twice[1]} is named twice; keep the higher level, which has the lower one")
        return value


def _check_application_id(name: str) -> None:
    if not _APPLICATION_ID.fullmatch(name):
        raise ValueError(
            f"a service principal goes by its application id, such as 0f0e0d0c-1111-2222-3333-444455556666, not by "
            f"{name!r}"
        )


def _twice(values: Iterable[tuple[str, str]]) -> tuple[str, str] | None:
    """The first value that comes a second time."""
    seen: set[tuple[str, str]] = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None
