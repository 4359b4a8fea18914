"""The part of a release's YAML that says who is told what."""

import re
from typing import Literal

from pydantic import Field, field_validator

from release_pipeline.spec_gate import Strict

Topic = Literal["start", "step", "hold", "rollback", "promotion", "approval", "drift"]
TOPICS: tuple[Topic, ...] = ("start", "step", "hold", "rollback", "promotion", "approval", "drift")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class NotificationsPart(Strict):
    """News of releases, sent through apprise; it never stands in the way of a release."""

    addresses_variable: str | None = Field(
        default=None,
        description="Environment variable that holds where news go, as addresses of apprise with white space between "
        "them; none sends nothing. Addresses hold passwords, so they never stand in the YAML.",
    )
    about: tuple[Topic, ...] = Field(default=TOPICS, description="What is told.")
    hold_minutes: float = Field(
        default=120,
        gt=0,
        description="A release that has held for longer for one reason is told, once per step and reason.",
    )

    @field_validator("addresses_variable")
    @classmethod
    def _name_of_a_variable(cls, value: str | None) -> str | None:
        if value is not None and not _VARIABLE.fullmatch(value):
            # What stands here may be an address, with its password.
            raise ValueError(
                "must be the name of an environment variable, such as RELEASE_NEWS; put the addresses there"
            )
        return value
