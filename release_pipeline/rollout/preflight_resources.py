"""Whether whom an endpoint acts as may use a resource that its model declares (automatic authentication passthrough).

Which permission a kind of resource needs is what Databricks documents for agents.
"""

from typing import Final

from release_pipeline.errors import Unanswered
from release_pipeline.spec import Resource
from release_pipeline.workspace.permissions import Permissions, Principal, Securable, lacking, permission_call

#: Securables of Unity Catalog: their type for the grants API, and the privilege.
PRIVILEGES: Final = {
    "function": ("FUNCTION", "EXECUTE"),
    "table": ("TABLE", "SELECT"),
    "vector_search_index": ("TABLE", "SELECT"),
    "uc_connection": ("CONNECTION", "USE_CONNECTION"),
}
#: Workspace objects: their type for the permissions API, and the levels that will do, the least one first.
LEVELS: Final = {
    "serving_endpoint": ("serving-endpoints", ("CAN_QUERY", "CAN_MANAGE")),
    "sql_warehouse": ("warehouses", ("CAN_USE", "CAN_MONITOR", "CAN_MANAGE", "IS_OWNER")),
    "genie_space": ("genie", ("CAN_RUN", "CAN_EDIT", "CAN_MANAGE")),
}


def resource_problem(permissions: Permissions, resource: Resource, who: Principal, is_me: bool) -> str:
    """What is wrong with one resource: a sentence with its remedy, empty where it may be used.

    Args:
        permissions: Whom to ask.
        resource: The resource, as the YAML declares it.
        who: Whom the endpoint acts as.
        is_me: Whether that is who asks.

    Raises:
        Unanswered: It cannot be told.
    """
    if resource.type in PRIVILEGES:
        return _securable(permissions, resource, who)
    object_type, enough = LEVELS[resource.type]
    object_id, levels = resource.name, None
    if resource.type == "serving_endpoint":
        found = permissions.endpoint(resource.name)
        if found is None:
            return _unknown(resource)
        object_id, level = found
        levels = frozenset({level}) if is_me and level else None
    if levels is None:
        levels = permissions.levels(object_type, object_id, who)
    if levels is None:
        if resource.type == "serving_endpoint":  # it is there, but keeps no permissions, as foundation models do
            raise Unanswered(f"who may use serving endpoint {resource.name} cannot be told: it keeps no permissions")
        return _unknown(resource)
    if levels & set(enough):
        return ""
    return f"{who.name} lacks {enough[0]} on {_words(resource)}; " + permission_call(
        object_type, object_id, who, enough[0]
    )


def _securable(permissions: Permissions, resource: Resource, who: Principal) -> str:
    kind, privilege = PRIVILEGES[resource.type]
    if resource.type == "vector_search_index" and not permissions.vector_index(resource.name):
        return _unknown(resource)
    securable, parts = Securable(kind, resource.name), resource.name.split(".")
    wanted = [(privilege, securable)]
    if len(parts) == 3:
        wanted += [
            ("USE_CATALOG", Securable("CATALOG", parts[0])),
            ("USE_SCHEMA", Securable("SCHEMA", f"{parts[0]}.{parts[1]}")),
        ]
    missing = []
    for each, where in wanted:
        held = permissions.holds(each, where, who)
        if held is None:
            return _unknown(resource)
        missing += [] if held else [(each, where)]
    return lacking(missing, who, "which the model needs")


def _unknown(resource: Resource) -> str:
    return f"{_words(resource)} does not exist, but model.resources declares it; make it, or correct the YAML."


def _words(resource: Resource) -> str:
    return f"{resource.type.replace('_', ' ')} {resource.name}"
