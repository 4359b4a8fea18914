"""Sending news through apprise, which knows more than a hundred services; it is an optional extra of the package."""

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from release_pipeline.errors import NotConfigured
from release_pipeline.report.news import Message, letter
from release_pipeline.spec import ReleaseSpec

if TYPE_CHECKING:
    import apprise

#: Services that are asked at the same time, so that one that does not answer keeps no other's news.
_AT_ONCE = 16


def addresses_of(spec: ReleaseSpec) -> list[str]:
    """The addresses that the environment names; they hold passwords and are told to nobody.

    Raises:
        NotConfigured: The variable holds none.
    """
    variable = spec.notifications.addresses_variable
    addresses = os.environ.get(variable or "", "").split()
    if not addresses:
        raise NotConfigured(
            f"the environment variable {variable} of notifications.addresses_variable holds no address; set it where "
            "Dagster's daemon runs."
        )
    return addresses


def send(
    news: Sequence[Sequence[Message]], addresses: Sequence[str], spec: ReleaseSpec, endpoint_url: str
) -> list[bool]:
    """Send each address its messages as one notification; which of them took theirs. No messages, no notification.

    Args:
        news: Messages by address.
        addresses: Where they go.
        spec: The release's YAML.
        endpoint_url: A link to the endpoint.

    Raises:
        NotConfigured: apprise is not installed, or does not know an address. No address is told.
    """
    try:
        import apprise
    except ImportError:
        raise NotConfigured(
            "notifications need apprise, which is not installed; install release-pipeline[notifications]."
        ) from None
    # Its own messages name addresses.
    logging.getLogger("apprise").setLevel(logging.CRITICAL)
    senders = []
    for number, address in enumerate(addresses, start=1):
        sender = apprise.Apprise()
        if not sender.add(address):
            raise NotConfigured(
                f"address {number} of the environment variable {spec.notifications.addresses_variable} is none that "
                "apprise knows; see its list of services."
            )
        senders.append(sender)

    def one(sender: "apprise.Apprise", messages: Sequence[Message]) -> bool:
        if not messages:
            return True
        title, body = letter(messages, spec, endpoint_url)
        kind = apprise.NotifyType.WARNING if any(message.bad for message in messages) else apprise.NotifyType.INFO
        return bool(sender.notify(title=title, body=body, notify_type=kind))

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(one, senders, news))
