"""Gives a service principal what the releases of a project need, and nothing else.

It needs what ``release-pipeline preflight`` asks for, read from the same YAML, and also what preflight has no API to
ask about: EXECUTE on the model, the tables of truth, and the secrets that the endpoint's environment names. What is
held already, also through a group or from above, is left alone, so that it can be run again after every change of a
YAML. Whoever runs it must be able to grant: an owner of the catalog or someone with MANAGE, and a workspace admin
where the principal is to be made.

    python deploy/grants.py --dry-run
    python deploy/grants.py --principal release-pipeline

Exit codes: 0 everything is there now, or with --dry-run was there before, 1 it is not, 2 a mistake in what was asked.
"""

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from release_pipeline.errors import NotConfigured, ReleasePipelineError, SpecError, Unanswered, first_sentence
from release_pipeline.operate.find_spec import chosen_specs
from release_pipeline.rollout.preflight_resources import LEVELS, PRIVILEGES
from release_pipeline.spec import ReleaseSpec, Resource
from release_pipeline.workspace.client import Workspace, connect
from release_pipeline.workspace.permissions import Permissions, Principal, Securable
from release_pipeline.workspace.score_table import score_table_name

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient

APPLICATION_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
SECRET = re.compile(r"\{\{\s*secrets/([^/}\s]+)/[^}]+\}\}")
#: Levels of a secret scope that let its secrets be read.
READING = ("READ", "WRITE", "MANAGE")


class CannotGrant(ReleasePipelineError):
    """Something that is needed can be neither given nor seen; says what, and what to do."""


@dataclass(frozen=True)
class Need:
    """One thing that the principal must hold.

    Attributes:
        what: In words, which also tell two needs apart.
        held: Whether a principal holds it.
        give: Gives it to a principal.
    """

    what: str
    held: Callable[[Principal], bool]
    give: Callable[[Principal], Any]


class Needs:
    """What releases need of one workspace."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._client: WorkspaceClient = workspace.client
        self._permissions = Permissions(workspace)

    def of(self, spec: ReleaseSpec, who: Principal | None) -> Iterator[Need]:
        """Everything for the releases of one YAML.

        Args:
            spec: The YAML.
            who: The principal, None where it is still to be made.

        Raises:
            CannotGrant: The workspace does not answer.
        """
        model, schema = spec.model.registered_name, f"{spec.model.catalog}.{spec.model.schema_name}"
        yield from self._reach(schema)
        if self._there(f"model {model}", lambda: self._client.registered_models.get(model)):
            # MANAGE or ownership sets aliases; a version is loaded and served with EXECUTE.
            yield self._privilege("MANAGE", Securable("FUNCTION", model))
            yield self._privilege("EXECUTE", Securable("FUNCTION", model))
        else:
            yield self._privilege("CREATE_MODEL", Securable("SCHEMA", schema))
        late = [metric for metric in spec.gate.metrics if metric.kind in ("feedback", "judge", "label")]
        for table in (spec.ledger_table, spec.evidence_table, *([score_table_name(spec)] if late else [])):
            yield from self._table(table, "SELECT", "MODIFY")
        # The service makes the inference table as whoever creates the endpoint.
        yield from self._table(spec.payload_table, "SELECT")
        for truth in dict.fromkeys(metric.table for metric in late if metric.table):
            yield from self._reach(truth.rpartition(".")[0])
            yield self._privilege("SELECT", Securable("TABLE", truth))
        yield self._level("warehouses", self._workspace.warehouse.warehouse_id, "CAN_USE", "SQL warehouse")
        endpoint = self._asked(lambda: self._permissions.endpoint(spec.endpoint_name))
        if endpoint is not None:
            yield self._level("serving-endpoints", endpoint[0], "CAN_MANAGE", f"endpoint {spec.endpoint_name},")
            creator = self._client.serving_endpoints.get(spec.endpoint_name).creator
            if who is None or creator != who.name:
                click.echo(f"  note     endpoint {spec.endpoint_name} acts as its creator, {creator}: what")
                click.echo("           model.resources and endpoint.environment name is for that one to hold")
                return
        for resource in spec.model.resources:
            yield from self._resource(resource)
        for value in spec.endpoint.environment.values():
            for scope in SECRET.findall(value):
                yield self._scope(scope)

    def _reach(self, schema: str) -> Iterator[Need]:
        yield self._privilege("USE_CATALOG", Securable("CATALOG", schema.partition(".")[0]))
        yield self._privilege("USE_SCHEMA", Securable("SCHEMA", schema))

    def _table(self, table: str, *privileges: str) -> Iterator[Need]:
        if self._asked(lambda: self._permissions.exists(table)):
            for privilege in privileges:
                yield self._privilege(privilege, Securable("TABLE", table))
        else:
            yield self._privilege("CREATE_TABLE", Securable("SCHEMA", table.rpartition(".")[0]))

    def _resource(self, resource: Resource) -> Iterator[Need]:
        if resource.type in PRIVILEGES:
            kind, privilege = PRIVILEGES[resource.type]
            if resource.name.count(".") == 2:
                yield from self._reach(resource.name.rpartition(".")[0])
            yield self._privilege(privilege, Securable(kind, resource.name))
            return
        object_type, enough = LEVELS[resource.type]
        object_id = resource.name
        if resource.type == "serving_endpoint":
            found = self._asked(lambda: self._permissions.endpoint(resource.name))
            if found is None:
                raise CannotGrant(f"serving endpoint {resource.name} does not exist, but model.resources declares it.")
            object_id = found[0]
        yield self._level(object_type, object_id, enough[0], f"{resource.type.replace('_', ' ')} {resource.name},")

    def _privilege(self, privilege: str, where: Securable) -> Need:
        from databricks.sdk.service.catalog import PermissionsChange, Privilege

        def held(who: Principal) -> bool:
            answer = self._permissions.holds(privilege, where, who)
            if answer is None:
                raise CannotGrant(f"{where.type.lower()} {where.name} does not exist; make it, or correct the YAML.")
            return answer

        def give(who: Principal) -> None:
            change = PermissionsChange(principal=who.name, add=[Privilege(privilege)])
            self._client.grants.update(where.type, where.name, changes=[change])

        return Need(f"{privilege.replace('_', ' ')} on {where.type.lower()} {where.name}", held, give)

    def _level(self, object_type: str, object_id: str, level: str, words: str) -> Need:
        from databricks.sdk.service.iam import AccessControlRequest, PermissionLevel

        enough = {"CAN_MANAGE", "IS_OWNER"} | {
            each for kind, levels in LEVELS.values() if kind == object_type and level in levels for each in levels
        }

        def held(who: Principal) -> bool:
            levels = self._permissions.levels(object_type, object_id, who)
            if levels is None:  # foundation models are there for everybody, and keep no permissions
                return level == "CAN_QUERY"
            return bool(enough & levels)

        def give(who: Principal) -> None:
            entry = AccessControlRequest(service_principal_name=who.name, permission_level=PermissionLevel(level))
            self._client.permissions.update(object_type, object_id, access_control_list=[entry])

        return Need(f"{level.replace('_', ' ')} on {words} {object_id}", held, give)

    def _scope(self, scope: str) -> Need:
        from databricks.sdk.service.workspace import AclPermission

        def held(who: Principal) -> bool:
            acls = self._client.secrets.list_acls(scope)
            return any(acl.principal in who.names and acl.permission.value in READING for acl in acls)

        def give(who: Principal) -> None:
            self._client.secrets.put_acl(scope, who.name, AclPermission.READ)

        return Need(f"READ on secret scope {scope}", held, give)

    @staticmethod
    def _asked(call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Unanswered as error:
            raise CannotGrant(f"{error}.") from None

    @staticmethod
    def _there(what: str, call: Callable[[], object]) -> bool:
        from databricks.sdk.errors import NotFound
        from databricks.sdk.errors.base import DatabricksError

        try:
            call()
        except NotFound:
            return False
        except DatabricksError as error:
            raise CannotGrant(f"whether {what} exists cannot be told: {first_sentence(error)}") from None
        return True


def find_principal(workspace: Workspace, name: str, *, make: bool) -> Principal | None:
    """The service principal of a display name or an application id, made where there is none; None where it is not.

    Args:
        workspace: Where.
        name: Display name, or application id.
        make: Whether to make it.

    Raises:
        CannotGrant: It cannot be found or made, or several have the name.
    """
    from databricks.sdk.errors.base import DatabricksError

    listing, attribute = workspace.client.service_principals_v2, "displayName"
    if APPLICATION_ID.fullmatch(name):
        attribute = "applicationId"
    try:
        found = list(listing.list(filter=f'{attribute} eq "{name}"'))
        if len(found) > 1:
            ids = ", ".join(sorted(str(each.application_id) for each in found))
            raise CannotGrant(
                f"{len(found)} service principals are named {name}; name one by its application id: {ids}."
            )
        if found:
            groups = frozenset(group.display for group in found[0].groups or [] if group.display)
            click.echo(f"  has      service principal {name}, {found[0].application_id}")
            return Principal(str(found[0].application_id), groups)
        if attribute == "applicationId":
            raise CannotGrant(f"there is no service principal {name}; give a display name to have one made.")
        if not make:
            click.echo(f"  lacks    service principal {name}")
            return None
        application_id = str(listing.create(display_name=name, active=True).application_id)
    except DatabricksError as error:
        raise CannotGrant(f"service principal {name} could not be found or made: {first_sentence(error)}") from None
    click.echo(f"  made     service principal {name}, {application_id}")
    return Principal(application_id)


def settle(need: Need, who: Principal | None, *, dry_run: bool) -> str:
    """See to one need, and say what came of it: ``has``, ``granted``, ``lacks`` or ``failed``."""
    from databricks.sdk.errors.base import DatabricksError

    try:
        if who is not None and need.held(who):
            outcome = "has"
        elif dry_run or who is None:
            outcome = "lacks"
        else:
            need.give(who)
            outcome = "granted"
    except CannotGrant as error:
        return _failed(str(error))
    except (DatabricksError, TimeoutError, Unanswered) as error:
        return _failed(f"{need.what}: {first_sentence(error)}; ask an owner, or somebody with MANAGE.")
    click.echo(f"  {outcome:8} {need.what}")
    return outcome


def grant(workspace: Workspace, specs: list[ReleaseSpec], name: str, *, dry_run: bool) -> bool:
    """See to all needs, with a line for each; whether everything is there.

    Raises:
        CannotGrant: There is no telling who it is for.
    """
    click.echo(f"service principal {name} at {workspace.host}{', nothing is changed' if dry_run else ''}")
    who = find_principal(workspace, name, make=not dry_run)
    needs, seen = Needs(workspace), set[str]()
    outcomes: list[str] = []
    for spec in specs:
        click.echo(f"{spec.name}:")
        try:
            for need in needs.of(spec, who):
                if need.what not in seen:
                    seen.add(need.what)
                    outcomes.append(settle(need, who, dry_run=dry_run))
        except ReleasePipelineError as error:
            outcomes.append(_failed(str(error)))
    missing, granted, failed = outcomes.count("lacks"), outcomes.count("granted"), outcomes.count("failed")
    did = f"{missing} lacking" if dry_run else f"{granted} granted" if granted else "nothing to do"
    click.echo(f"{len(outcomes)} needed: {outcomes.count('has')} there, {did}{f', {failed} failed' if failed else ''}")
    return not failed and not missing and who is not None


def _failed(sentence: str) -> str:
    click.echo("  failed   see below")
    click.echo(f"grants: {sentence}", err=True)
    return "failed"


@click.command(help=(__doc__ or "").split("\n\n", 1)[0])
@click.argument("models", metavar="[MODEL]...", nargs=-1)
@click.option("--principal", default="release-pipeline", show_default=True, help="Display name or application id.")
@click.option("--spec", "file", type=click.Path(path_type=Path), help="The YAML of the one MODEL.")
@click.option("--dry-run", is_flag=True, help="Say what is lacking, and change nothing.")
def main(models: tuple[str, ...], principal: str, file: Path | None, dry_run: bool) -> None:
    """See the module."""
    try:
        specs, wrong = chosen_specs(models, file)
        for sentence in wrong:
            click.echo(f"grants: {sentence}", err=True)
        done = grant(connect(), specs, principal, dry_run=dry_run) and not wrong
    except ReleasePipelineError as error:
        click.echo(f"grants: {error}", err=True)
        sys.exit(2 if isinstance(error, (SpecError, NotConfigured)) else 1)
    sys.exit(0 if done else 1)


if __name__ == "__main__":
    main()
