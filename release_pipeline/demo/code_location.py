"""Which definitions ``dev`` and ``demo`` start Dagster with."""

from pathlib import Path
from typing import Final

from release_pipeline.errors import NotConfigured
from release_pipeline.operate.spec_files import dagster_project, source_folder

FILE: Final = "workspace.yaml"


def workspace_file(project: Path, data: Path) -> Path:
    """Dagster's ``workspace.yaml``: the one that a demo left in its data; the folder's own; one made for its project.

    Raises:
        NotConfigured: The folder has none, and is no project of ``create-dagster``.
    """
    for own in (data / FILE, project / FILE):
        if own.exists():
            return own
    found = dagster_project(project)
    if found is None:
        raise NotConfigured(
            f"{project} has no {FILE} and is no project of create-dagster; run this in the project's folder."
        )
    module = str(found.get("code_location_target_module") or f"{found['root_module']}.definitions")
    name = str(found.get("code_location_name") or found["root_module"])
    return write_workspace_file(data / "dagster" / FILE, module, name, source_folder(project))


def write_workspace_file(file: Path, module: str, name: str, folder: Path | None = None) -> Path:
    """Write a ``workspace.yaml`` with one code location: a module, its name, and where it is found if not installed."""
    import yaml

    location = {"module_name": module, "location_name": name}
    if folder is not None:
        location["working_directory"] = str(folder.resolve())
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump({"load_from": [{"python_module": location}]}), encoding="utf-8")
    return file
