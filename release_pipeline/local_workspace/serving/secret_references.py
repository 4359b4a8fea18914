"""``{{secrets/scope/key}}`` in the environment of a served entity: looked up when asked for, never stored resolved."""

import base64
from collections.abc import Mapping

from release_pipeline.local_workspace.errors import ApiError, InvalidParameter, NotFound
from release_pipeline.local_workspace.state.endpoint_configuration import SECRET_REFERENCE, ServedEntity
from release_pipeline.local_workspace.state.secrets import SecretStore


def resolved(store: SecretStore, entity: ServedEntity, who: str) -> tuple[dict[str, str], list[str]]:
    """An entity's environment with its references replaced, and the values that came from secrets.

    Args:
        store: Where the secrets are.
        entity: Whose environment it is.
        who: Who must be allowed to read them: the endpoint's creator.

    Raises:
        InvalidParameter: A secret does not exist, or is no text that a variable can hold.
        PermissionDenied: ``who`` may not read one.
    """
    environment: dict[str, str] = {}
    hidden: list[str] = []
    for variable, text in entity.environment_vars.items():
        values = {
            found[0]: _value(store, entity.name, variable, found[1], found[2], who)
            for found in SECRET_REFERENCE.finditer(text)
        }
        hidden += values.values()
        environment[variable] = _replaced(text, values)
    return environment, hidden


def _replaced(text: str, values: Mapping[str, str]) -> str:
    return SECRET_REFERENCE.sub(lambda found: values[found[0]], text)


def _value(store: SecretStore, entity: str, variable: str, scope: str, key: str, who: str) -> str:
    what = f"Served entity {entity!r}: {variable} refers to the secret {key!r} of scope {scope!r}, "
    try:
        value = base64.b64decode(store.get(scope, key, who)).decode()
    except NotFound:
        raise InvalidParameter(what + "which does not exist; create it first.") from None
    except UnicodeDecodeError:
        raise InvalidParameter(what + "which is not text; a variable cannot hold it.") from None
    except ApiError as error:
        raise type(error)(f"{what}which {who} may not read; grant READ on the scope.") from None
    if "\0" in value:
        raise InvalidParameter(what + "which has a null character; a variable cannot hold it.")
    return value
