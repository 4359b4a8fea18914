"""``deploy/Dockerfile``, read instruction by instruction; what it installs; and the server that it starts."""

import fnmatch
import os
import re
import shlex
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from release_pipeline.operate.spec_files import MODULE
from tests.conftest import free_port

PROJECT = Path(__file__).parents[2]
FOLDER = PROJECT / "deploy"
PINNED = re.compile(r"^([a-z0-9][a-z0-9._-]*)==([^\s;\\]+)", re.MULTILINE)
SECRET = re.compile(r"token|secret|passw|credential|_key\b|client_id", re.IGNORECASE)


def instructions(text: str) -> list[tuple[str, str]]:
    """Each instruction with its arguments; continued lines are joined, comments left out."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(line.split(None, 1)[0].upper(), line.split(None, 1)[1]) for line in joined.splitlines() if line.strip()]


DOCKERFILE = instructions((FOLDER / "Dockerfile").read_text(encoding="utf-8"))


def arguments(*names: str) -> list[str]:
    return [rest for name, rest in DOCKERFILE if name in names]


def default(name: str) -> str:
    """What an ARG is where nobody says otherwise."""
    (found,) = [rest.partition("=")[2] for rest in arguments("ARG") if rest.startswith(f"{name}=")]
    return found


def pins(file: Path) -> dict[str, str]:
    return dict(PINNED.findall(file.read_text(encoding="utf-8")))


def test_the_base_is_pinned_and_named_without_a_host() -> None:
    bases = [rest.split()[0] for rest in arguments("FROM")]
    assert len(set(bases)) == 1, "both stages must have the same Python"
    image, _, tag = bases[0].partition(":")
    assert "/" not in image
    assert re.fullmatch(r"3\.1[123]-slim-[a-z]+", tag)


def test_it_runs_as_nobody_special_and_carries_no_secret() -> None:
    assert arguments("USER") == ["10001:10001"]
    last_stage = DOCKERFILE[max(i for i, (name, _) in enumerate(DOCKERFILE) if name == "FROM") :]
    names = [name for name, _ in last_stage]
    assert "COPY" not in names[names.index("USER") :], "what follows USER would be the user's to change"
    assert arguments("ADD") == []
    assert [rest for rest in arguments("ENV", "ARG") if SECRET.search(rest)] == []
    values = yaml.safe_load((FOLDER / "values.yaml").read_text())
    (deployment,) = values["dagster-user-deployments"]["deployments"]
    assert deployment["podSecurityContext"]["runAsUser"] == 10001
    assert arguments("EXPOSE") == [str(deployment["port"])]
    assert deployment["dagsterApiGrpcArgs"] == ["-m", default("MODULE")]
    assert f"{MODULE}=${{MODULE}}" in " ".join(arguments("ENV")), "commands find the project's releases by it"


def test_everything_that_is_copied_exists_and_is_sent_to_the_builder() -> None:
    ignored = (FOLDER / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    allowed = [line.removeprefix("!") for line in ignored if line.startswith("!")]
    assert "*" in ignored, "else .data, with the token, would be sent"
    copied = [
        source.replace("${PACKAGE}", default("PACKAGE")).removeprefix("./")
        for rest in arguments("COPY")
        if not rest.startswith("--from=")
        for source in rest.split()[:-1]
    ]
    assert {"release_pipeline", "pyproject.toml"} <= set(copied)
    assert [source for source in copied if not (PROJECT / source).exists()] == []
    assert [source for source in copied if not any(fnmatch.fnmatch(source, each) for each in allowed)] == []
    assert [each for each in allowed if each not in copied] == [], "nobody copies it"


def test_packages_are_installed_by_their_hashes_and_nothing_is_resolved() -> None:
    installs = [step for rest in arguments("RUN") for step in rest.split("&&") if "pip install" in step]
    assert len(installs) == 2
    assert all("--no-deps" in step for step in installs)
    assert "--require-hashes" in installs[0]
    assert installs[1].rstrip().endswith("dist/*.whl")
    assert not re.search(r"index-url|curl |wget |https?://", " ".join(arguments("RUN")))


def test_the_lock_has_all_that_the_image_needs_in_the_versions_that_are_tested() -> None:
    locked, tested = pins(FOLDER / "requirements.lock"), pins(PROJECT / "requirements.lock")
    assert {name: version for name, version in locked.items() if tested.get(name) != version} == {}
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    wanted = [*project["project"]["dependencies"], *extras["production"], *extras["notifications"]]
    wanted += project["build-system"]["requires"]
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(locked[requirement.name.lower()]), requirement
    assert not locked.keys() & {"pytest", "mypy", "ruff", "hypothesis"}
    text = (FOLDER / "requirements.lock").read_text(encoding="utf-8")
    assert len(re.findall(r"^[a-z0-9][^\n]*\\\n    --hash=sha256:", text, re.MULTILINE)) == len(PINNED.findall(text))


@pytest.mark.slow
def test_the_command_of_the_image_serves_the_definitions(tmp_path: Path) -> None:
    from dagster._grpc.client import DagsterGrpcClient
    from dagster._grpc.types import ListRepositoriesResponse
    from dagster._serdes import deserialize_value

    (command,) = [yaml.safe_load(rest) for rest in arguments("CMD") if rest.startswith("[")]
    (port_of_image,) = arguments("EXPOSE")
    port = free_port()
    words = shlex.split(command[2].replace(port_of_image, str(port)).replace(f"${MODULE}", default("MODULE")))
    assert words[:3] == ["exec", "dagster", "api"]
    words[words.index("0.0.0.0")] = "127.0.0.1"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DATABRICKS_")}
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(
            [str(Path(sys.prefix) / "bin" / "dagster"), *words[2:]],
            cwd=tmp_path,
            env={**environment, "DAGSTER_HOME": str(tmp_path)},
            stdout=log,
            stderr=log,
        )
    try:
        client = DagsterGrpcClient(port=port, host="127.0.0.1")
        deadline = time.monotonic() + 90
        while client.health_check_query() != "SERVING":  # type: ignore[no-untyped-call]
            assert server.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.3)
        served = deserialize_value(str(client.list_repositories()), ListRepositoriesResponse)
        assert [symbol.attribute for symbol in served.repository_symbols] == ["defs"]
    finally:
        server.kill()
        server.wait()
