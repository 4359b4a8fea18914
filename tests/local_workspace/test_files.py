"""The Files API through the SDK, and bare HTTP where a client would never misbehave."""

import contextlib
import http.client
import io
import os
import time
import uuid
from collections.abc import Iterator
from urllib.parse import parse_qsl, urlsplit

import pytest
import requests
from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import AlreadyExists, BadRequest, NotFound, PermissionDenied, ResourceConflict

from release_pipeline.local_workspace.errors import ApiError
from release_pipeline.local_workspace.wire.files import LINK_SECONDS, Links
from tests.conftest import RunningWorkspace

MEBIBYTE = 1 << 20


@pytest.fixture
def folder(workspace: RunningWorkspace) -> str:
    return f"/Volumes/main/default/files/{uuid.uuid4().hex}"


@pytest.fixture
def session(workspace: RunningWorkspace) -> Iterator[requests.Session]:
    with requests.Session() as made:
        made.headers["Authorization"] = f"Bearer {workspace.token}"
        yield made


@pytest.fixture
def connection(workspace: RunningWorkspace) -> Iterator[http.client.HTTPConnection]:
    """A connection that sends paths as they are written, unlike every polite client."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", workspace.port, timeout=30)) as made:
        yield made


def _read(client: WorkspaceClient, path: str) -> bytes:
    contents = client.files.download(path).contents
    assert contents is not None
    with contents:
        return contents.read()


def test_a_file_comes_back_as_it_went(client: WorkspaceClient, folder: str) -> None:
    client.files.upload(f"{folder}/a/notes é #1.bin", io.BytesIO(b"\0\1\2"))
    assert _read(client, f"{folder}/a/notes é #1.bin") == b"\0\1\2"
    assert client.files.get_metadata(f"{folder}/a/notes é #1.bin").content_length == 3


def test_an_existing_file_is_replaced_only_on_request(client: WorkspaceClient, folder: str) -> None:
    client.files.upload(f"{folder}/one", io.BytesIO(b"first"))
    with pytest.raises((AlreadyExists, ResourceConflict)):
        client.files.upload(f"{folder}/one", io.BytesIO(b"second"), overwrite=False)
    assert _read(client, f"{folder}/one") == b"first"
    client.files.upload(f"{folder}/one", io.BytesIO(b"third"), overwrite=True)
    assert _read(client, f"{folder}/one") == b"third"


def test_a_folder_lists_its_files_and_folders(client: WorkspaceClient, folder: str) -> None:
    client.files.upload(f"{folder}/b.txt", io.BytesIO(b"12345"))
    client.files.create_directory(f"{folder}/a/deep")
    listed = {
        entry.path: (entry.is_directory, entry.file_size) for entry in client.files.list_directory_contents(folder)
    }
    assert listed == {f"{folder}/a": (True, None), f"{folder}/b.txt": (False, 5)}
    pages = client.files.list_directory_contents(folder, page_size=1)
    assert [entry.name for entry in pages] == ["a", "b.txt"]


def test_a_folder_is_told_from_a_file_and_from_nothing(client: WorkspaceClient, folder: str) -> None:
    client.files.upload(f"{folder}/file", io.BytesIO(b""))
    client.files.get_directory_metadata(folder)
    for path in (f"{folder}/file", f"{folder}/none"):
        with pytest.raises(NotFound):
            client.files.get_directory_metadata(path)


def test_deleting(client: WorkspaceClient, folder: str) -> None:
    client.files.upload(f"{folder}/sub/file", io.BytesIO(b"x"))
    with pytest.raises(BadRequest, match="not empty"):
        client.files.delete_directory(f"{folder}/sub")
    client.files.delete(f"{folder}/sub/file")
    client.files.delete_directory(f"{folder}/sub")
    for gone in (client.files.get_metadata, client.files.delete):
        with pytest.raises(NotFound):
            gone(f"{folder}/sub/file")
    with pytest.raises(NotFound):
        client.files.delete_directory(f"{folder}/sub")


def test_a_head_answer_has_no_body(
    workspace: RunningWorkspace, session: requests.Session, connection: http.client.HTTPConnection, folder: str
) -> None:
    session.put(f"{workspace.url}/api/2.0/fs/files{folder}/file", data=b"12345").raise_for_status()
    found = session.head(f"{workspace.url}/api/2.0/fs/files{folder}/file")
    assert (found.status_code, found.headers["content-length"], found.content) == (200, "5", b"")
    # A body after a HEAD would be taken for the next answer of the connection.
    headers = {"Authorization": f"Bearer {workspace.token}"}
    for path in (f"directories{folder}/none", f"files{folder}/none", f"directories{folder}"):
        connection.request("HEAD", f"/api/2.0/fs/{path}", headers=headers)
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (404 if "none" in path else 200, b"")


@pytest.mark.parametrize(
    ("asked", "status", "body"),
    [("bytes=2-4", 206, b"234"), ("bytes=7-", 206, b"789"), ("bytes=-2", 206, b"89"), ("bytes=20-", 416, None)],
)
def test_a_range_of_a_file(
    workspace: RunningWorkspace, session: requests.Session, folder: str, asked: str, status: int, body: bytes | None
) -> None:
    url = f"{workspace.url}/api/2.0/fs/files{folder}/digits"
    session.put(url, data=b"0123456789").raise_for_status()
    answer = session.get(url, headers={"Range": asked})
    assert answer.status_code == status
    assert body is None or answer.content == body


def test_a_large_file_goes_up_and_down_through_the_sdk(client: WorkspaceClient, folder: str) -> None:
    # Above 50 MiB the SDK first asks for a multipart upload, and fails when that is an unknown route.
    block = os.urandom(MEBIBYTE)
    client.files.upload(f"{folder}/large", io.BytesIO(block * 60), overwrite=True)
    assert client.files.get_metadata(f"{folder}/large").content_length == 60 * MEBIBYTE
    received = _read(client, f"{folder}/large")
    assert len(received) == 60 * MEBIBYTE
    assert received[-MEBIBYTE:] == block


def test_a_chunked_upload(workspace: RunningWorkspace, session: requests.Session, folder: str) -> None:
    url = f"{workspace.url}/api/2.0/fs/files{folder}/chunked"
    assert session.put(url, data=(b"x" * 70_000 for _ in range(40))).status_code == 204
    assert len(session.get(url).content) == 2_800_000


def test_a_link_needs_no_token_but_its_own_signature(
    workspace: RunningWorkspace, session: requests.Session, folder: str
) -> None:
    session.put(f"{workspace.url}/api/2.0/fs/files{folder}/é", data=b"secret").raise_for_status()
    session.put(f"{workspace.url}/api/2.0/fs/files{folder}/other", data=b"other").raise_for_status()
    create = f"{workspace.url}/api/2.0/fs/create-download-url"
    in_query = session.post(create, params={"path": f"{folder}/é"}).json()["url"]
    in_body = session.post(create, json={"path": f"{folder}/é"}).json()["url"]
    for url in (in_query, in_body):
        assert requests.get(url, timeout=30).content == b"secret"
    head, _, signature = in_query.rpartition("signature=")
    forged = [f"{head}signature={'0' * len(signature)}", head, in_query.replace("%C3%A9", "other")]
    forged.append(in_query.replace("expires=1", "expires=2"))
    for url in forged:
        answer = requests.get(url, timeout=30)
        assert (answer.status_code, answer.json()["error_code"]) == (403, "PERMISSION_DENIED")
    assert session.post(create, params={"path": f"{folder}/none"}).status_code == 404
    assert session.post(create).status_code == 400


def test_a_link_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    links, now = Links(), time.time()
    link = urlsplit(links.sign("/Volumes/a b"))
    assert link.path == "/presigned/files/Volumes/a%20b"
    query = dict(parse_qsl(link.query))
    for seconds in (0, LINK_SECONDS - 2):
        monkeypatch.setattr(time, "time", lambda later=seconds: now + later)
        links.check("/Volumes/a b", query)
    monkeypatch.setattr(time, "time", lambda: now + LINK_SECONDS + 2)
    with pytest.raises(ApiError, match="not any more"):
        links.check("/Volumes/a b", query)


@pytest.mark.parametrize(
    "escape", ["../../../../../../token", "a/%2e%2e/%2e%2e/b", "..%2f..%2ftoken", "a/./b", "%5c..%5cb", "a%00b"]
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
@pytest.mark.parametrize("kind", ["files", "directories"])
def test_leaving_the_tree_is_refused(
    workspace: RunningWorkspace, connection: http.client.HTTPConnection, escape: str, method: str, kind: str
) -> None:
    headers = {"Authorization": f"Bearer {workspace.token}"}
    connection.request(method, f"/api/2.0/fs/{kind}/Volumes/main/{escape}", body=b"x", headers=headers)
    answer = connection.getresponse()
    assert answer.status == 400
    assert method == "HEAD" or b"INVALID_PARAMETER_VALUE" in answer.read()


@pytest.mark.parametrize("path", ["/Volumes/main/../../../token", "/../token", "../token", "/Volumes/a\0b", ""])
def test_no_link_leaves_the_tree(workspace: RunningWorkspace, session: requests.Session, path: str) -> None:
    create = f"{workspace.url}/api/2.0/fs/create-download-url"
    for asked in ({"params": {"path": path}}, {"json": {"path": path}}):
        answer = session.post(create, **asked)  # type: ignore[arg-type]
        assert (answer.status_code, answer.json()["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
    # Nor does one that was signed for another path.
    with pytest.raises(ApiError):
        Links().check(path, dict(parse_qsl(urlsplit(Links().sign("/Volumes/a")).query)))


def test_files_and_folders_do_not_take_each_others_place(client: WorkspaceClient, folder: str) -> None:
    client.files.upload(f"{folder}/file", io.BytesIO(b"x"))
    client.files.create_directory(f"{folder}/sub")
    with pytest.raises(ResourceConflict):
        client.files.upload(f"{folder}/file/below", io.BytesIO(b"x"), overwrite=True)
    with pytest.raises(ResourceConflict):
        client.files.upload(f"{folder}/sub", io.BytesIO(b"x"), overwrite=True)
    with pytest.raises(ResourceConflict):
        client.files.create_directory(f"{folder}/file")


def test_nothing_is_written_where_no_version_is_being_registered(client: WorkspaceClient) -> None:
    for path in ("/Models/main/default/none/1/MLmodel", "/Models/main", "/Models/x"):
        with pytest.raises(PermissionDenied):
            client.files.upload(path, io.BytesIO(b"x"), overwrite=True)


def test_an_upload_that_breaks_off_leaves_nothing(
    workspace: RunningWorkspace, client: WorkspaceClient, connection: http.client.HTTPConnection, folder: str
) -> None:
    client.files.upload(f"{folder}/file", io.BytesIO(b"whole"))
    connection.putrequest("PUT", f"/api/2.0/fs/files{folder}/file?overwrite=true")
    connection.putheader("Authorization", f"Bearer {workspace.token}")
    connection.putheader("Content-Length", str(4 * MEBIBYTE))
    connection.endheaders()
    connection.send(b"half" * (MEBIBYTE // 2))
    connection.close()
    assert _read(client, f"{folder}/file") == b"whole"
