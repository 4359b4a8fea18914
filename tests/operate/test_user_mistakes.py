"""What people get wrong most often, command by command: an exit code and a sentence on stderr, never a traceback."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import release_pipeline
from release_pipeline.cli import main
from release_pipeline.operate.spec_files import MODULE
from tests.conftest import RunningWorkspace, free_port

MODEL = "python_docs_agent"
YAML = str(Path(release_pipeline.__file__).parent / "defs" / MODEL / "defs.yaml")

#: Commands that ask the workspace, as somebody types them who has made no other mistake.
ASK_THE_WORKSPACE = [
    f"status {MODEL}",
    f"history {MODEL}",
    f"logs {MODEL}",
    f"metrics {MODEL}",
    f"rollback {MODEL} --reason wrong",
    f"promote {MODEL}",
    f"approve {MODEL} --release 1",
    f"withdraw {MODEL} --release 1",
    f"pause {MODEL} --reason wrong",
    f"unpause {MODEL}",
    "unpause --all",
    f"plan {MODEL}",
    f"preflight {MODEL}",
    f"power {YAML} --days 1",
    f"replay --spec {YAML} --log main.agents.releases",
]
BY_MODEL = [words for words in ASK_THE_WORKSPACE if MODEL in words.split()] + [
    f"doctor {MODEL}",
    f"app-snippet {MODEL}",
]
BY_FILE = [words for words in ASK_THE_WORKSPACE if YAML in words.split()] + [
    f"power {YAML} --rate 1/s",
    f"replay --spec {YAML} --log log.csv",
]

WRONG_TOKEN = "not-the-token"

#: Wrong values of options and paths, and what is said of them.
WRONG = {
    "nonsense": "No such command 'nonsense'",
    "status --nonsense": "No such option '--nonsense'",
    "history": "Missing argument 'MODEL'",
    f"history {MODEL} --at noon": "no time in ISO 8601",
    f"rollback {MODEL}": "Missing option '--reason'",
    f"promote {MODEL} --override ": "say why the gate is overruled",
    f"withdraw {MODEL}": "Missing option '--release'",
    "pause --reason wrong": "either one MODEL or --all",
    "unpause": "either one MODEL or --all",
    "plan": "Missing argument 'MODEL'",
    "preflight": "Missing argument 'MODEL'",
    f"power {YAML}": "either --rate, such as 10/s, or --days",
    f"power {YAML} --rate fast": "fast is no rate",
    f"power {YAML} --rate 1/s --plot gone/plot.svg": "gone/plot.svg cannot be written",
    f"power {YAML} --rate 1/s --level nothing=0.1": "--level names nothing",
    f"replay --spec {YAML}": "Missing option '--log'",
    f"replay --spec {YAML} --log gone.csv": "there is no file gone.csv",
    f"replay --spec {YAML} --log broken.yaml": "broken.yaml is no log",
    f"app-snippet {MODEL} --only nothing": "'nothing' is not one of",
    f"start {MODEL} --dagster localhost:3000": "write http://host:port",
    "dev --ui-port 99999": "99999 is not in the range",
    "dev --data broken.yaml": "'broken.yaml' is a file",
    "dev": "has no workspace.yaml",
    "demo --workspace-port many": "'many' is not a valid integer",
    "demo --settings gone.yaml": "'gone.yaml' does not exist",
    "workspace --port 0": "0 is not in the range",
    "workspace --port 99999": "99999 is not in the range",
    "workspace --lag -1": "'inference_lag_seconds' must be a number of seconds",
    "workspace --data broken.yaml --port FREE": "broken.yaml cannot be used",
    "workspace --token-file broken.yaml/token --port FREE": "broken.yaml",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with one broken YAML; the releases are those of this package."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(MODULE, "release_pipeline.definitions")
    (tmp_path / "broken.yaml").write_text("attributes: [")
    return tmp_path


@pytest.fixture
def nowhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No credentials of any kind."""
    for name in ("DATABRICKS_HOST", "DATABRICKS_TOKEN", "DATABRICKS_CONFIG_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(folder / "no-databrickscfg"))


def ends(words: str, code: int, said: str) -> None:
    """The command ends so, and what it says last on stderr is a sentence with these words."""
    ended = CliRunner().invoke(main, words.split(" "))
    assert one_sentence(ended), (words, ended.stderr, ended.exception)
    assert ended.exit_code == code, (words, ended.stderr)
    assert WRONG_TOKEN not in ended.output
    assert said in ended.stderr.splitlines()[-1], (words, ended.stderr)


def one_sentence(ended: Result) -> bool:
    lines = [line for line in ended.stderr.splitlines() if line and not line.startswith(("Usage:", "Try ", "…"))]
    calm = ended.exception is None or isinstance(ended.exception, SystemExit)
    return calm and len(lines) == 1 and lines[0].startswith(("release-pipeline", "Error:")) and lines[0].endswith(".")


@pytest.mark.parametrize("words", WRONG)
def test_a_wrong_word(words: str, nowhere: None) -> None:
    ends(words.replace("FREE", str(free_port())), 2, WRONG[words])


@pytest.mark.parametrize("words", ["status", "doctor", "pause --all --reason x", "unpause --all"])
def test_a_folder_without_a_release_is_none_that_anybody_meant(
    words: str, nowhere: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(MODULE)
    ends(words, 2, "go to the project's folder")
    ends(f"history {MODEL}", 2, "there is none of any model. Name its file with --spec.")


@pytest.mark.parametrize("words", BY_MODEL)
def test_a_model_that_is_not_there(words: str, nowhere: None) -> None:
    ends(words.replace(MODEL, "nobody"), 2, f"the models there are {MODEL}. Name its file with --spec.")


@pytest.mark.parametrize("words", BY_FILE)
def test_a_yaml_that_is_missing_or_broken(words: str, nowhere: None) -> None:
    ends(words.replace(YAML, "gone.yaml"), 2, "gone.yaml: cannot be read (FileNotFoundError)")
    ends(words.replace(YAML, "broken.yaml"), 2, "broken.yaml:1: is not YAML")


@pytest.mark.parametrize("words", ASK_THE_WORKSPACE)
def test_no_workspace(words: str, nowhere: None) -> None:
    ends(words, 2, "set DATABRICKS_HOST and DATABRICKS_TOKEN")


@pytest.mark.parametrize("words", ASK_THE_WORKSPACE)
def test_nobody_listens_there(words: str, nowhere: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABRICKS_HOST", "http://127.0.0.1:9")
    monkeypatch.setenv("DATABRICKS_TOKEN", "some")
    ends(words, 1, "http://127.0.0.1:9")


@pytest.mark.parametrize("words", ASK_THE_WORKSPACE)
def test_a_wrong_token(words: str, workspace: RunningWorkspace, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABRICKS_TOKEN", WRONG_TOKEN)
    ends(words, 2, "check DATABRICKS_TOKEN")


def test_doctor_has_a_row_for_credentials_that_are_missing(nowhere: None) -> None:
    ended = CliRunner().invoke(main, ["doctor", "--json"])
    assert (ended.exit_code, "DATABRICKS_HOST and DATABRICKS_TOKEN" in ended.stdout) == (1, True)


def test_what_is_no_dagster_is_told(nowhere: None, workspace: RunningWorkspace) -> None:
    ends(f"start {MODEL} --dagster http://127.0.0.1:9", 1, "start it with `release-pipeline dev`")
    ends(f"start {MODEL} --dagster {workspace.url}", 1, f"Dagster does not answer at {workspace.url}")


def test_a_release_file_that_leads_nowhere_is_told(
    nowhere: None, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(MODULE)
    (folder / "defs.yaml").symlink_to(folder / "gone")
    ends("app-snippet nobody", 2, "cannot be read (FileNotFoundError)")
