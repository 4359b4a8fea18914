"""Sending news through apprise, which knows more than a hundred services; it is an optional extra of the package."""

import logging
import os
from collections.abc import Sequence

from release_pipeline.errors import NotConfigured
from release_pipeline.report.news import Message, letter
from release_pipeline.spec import ReleaseSpec


def send(messages: Sequence[Message], spec: ReleaseSpec, endpoint_url: str) -> bool:
    """Send messages as one notification to every address; whether all took it.

    Raises:
        NotConfigured: apprise is not installed, or the variable holds no address that it knows. No address is told.
    """
    variable = spec.notifications.addresses_variable
    addresses = os.environ.get(variable or "", "").split()
    if not addresses:
        raise NotConfigured(
            f"the environment variable {variable} of notifications.addresses_variable holds no address; set it where "
            "Dagster's daemon runs."
        )
    try:
        import apprise
    except ImportError:
        raise NotConfigured(
            "notifications need apprise, which is not installed; install release-pipeline[notifications]."
        ) from None
    # Its own messages name addresses.
    logging.getLogger("apprise").setLevel(logging.CRITICAL)
    sender = apprise.Apprise()
    for number, address in enumerate(addresses, start=1):
        if not sender.add(address):
            raise NotConfigured(
                f"address {number} of the environment variable {variable} is none that apprise knows; see its list of "
                "services."
            )
    title, body = letter(messages, spec, endpoint_url)
    kind = apprise.NotifyType.WARNING if any(message.bad for message in messages) else apprise.NotifyType.INFO
    return bool(sender.notify(title=title, body=body, notify_type=kind))
