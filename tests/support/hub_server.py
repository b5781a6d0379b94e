"""A hub on the loopback: the part of the Hugging Face HTTP interface that pull and push need, with faults on order.

Standard library alone. ``Server(folder)`` keeps repos in memory and large objects as files; ``python hub_server.py
FOLDER`` serves until it is stopped and prints its address (for measurements outside the tests).
"""

import base64
import hashlib
import json
import re
import shutil
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_" + "planted0" * 4  # looks like one of the hub's
LARGE = re.compile(r".*\.(safetensors|pt|pth|ckpt|parquet)$")


@dataclass
class Fault:
    """What to do to the next ``times`` requests whose "METHOD /path" matches ``pattern``.

    ``cut``: promise the whole body and close after so many bytes. ``html``: a web page with status 200.
    ``flip``: change one byte of the body. ``extra``: send more bytes than promised.
    """

    pattern: str
    status: int = 0
    times: int = 1
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b'{"error": "ordered by the test"}'
    cut: int | None = None
    html: bool = False
    flip: bool = False
    chunked: bytes | None = None


@dataclass
class Repo:
    private: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, Path | bytes]] = field(default_factory=dict)
    pull_requests: int = 0
    accepted: set[str] | None = None  # users who have accepted the terms of a gated repo; None: it has none


class Server:
    """Users are tokens: ``{"hf_x": ("alice", "write", ["team"])}``."""

    def __init__(self, folder: Path, users: dict[str, tuple[str, str, list[str]]]) -> None:
        self.folder = folder
        self.users = users
        self.repos: dict[str, Repo] = {}
        self.moved: dict[str, str] = {}  # old names of repos, and their new ones
        self.files: dict[str, bytes] = {}
        self.headers: dict[str, str] = {}  # of answers about ``files``
        self.faults: list[Fault] = []
        self.log: list[str] = []
        self.roles: dict[str, str] = {}  # of every user in an organisation, where it is not the right to write
        self.lock = threading.RLock()
        handler = type("Handler", (_Handler,), {"hub": self})
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()

    def add(self, repo: str, files: dict[str, bytes], *, private: bool = False, branch: str = "main") -> str:
        """Make a commit from outside; returns its id."""
        with self.lock:
            found = self.repos.setdefault(repo, Repo(private))
            return self.commit(found, branch, {**self.tree(found, branch), **files})

    def commit(self, repo: Repo, branch: str, tree: dict[str, Path | bytes]) -> str:
        number = len(repo.commits)
        sha = hashlib.sha1(f"{id(repo)} {branch} {number}".encode()).hexdigest()
        repo.commits[sha] = tree
        repo.branches[branch] = sha
        return sha

    def tree(self, repo: Repo, revision: str) -> dict[str, Path | bytes]:
        return dict(repo.commits.get(repo.branches.get(revision, revision), {}))

    def read(self, repo: str, path: str, branch: str = "main") -> bytes:
        return content_of(self.tree(self.repos[repo], branch)[path])

    def fault_for(self, line: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and re.search(fault.pattern, line):
                    fault.times -= 1
                    return fault
        return None


def content_of(stored: Path | bytes) -> bytes:
    return stored if isinstance(stored, bytes) else stored.read_bytes()


def size_of(stored: Path | bytes) -> int:
    return len(stored) if isinstance(stored, bytes) else stored.stat().st_size


def sha256_of(stored: Path | bytes) -> str:
    return stored.name if isinstance(stored, Path) else hashlib.sha256(stored).hexdigest()


def blob_of(stored: Path | bytes) -> str:
    content = content_of(stored)
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # header and body are two writes; the second would wait 40 ms for an acknowledgement

    def log_message(self, format: str, *args: object) -> None:
        pass

    def handle_any(self) -> None:
        line = f"{self.command} {self.path}"
        self.hub.log.append(line)
        self.fault = self.hub.fault_for(line)
        if self.fault and self.fault.status:
            self.drain()
            self.answer(self.fault.status, self.fault.body, self.fault.headers)
        elif self.fault and self.fault.html:
            self.drain()
            self.answer(200, b"<!DOCTYPE html><html>Sign in</html>", {"Content-Type": "text/html; charset=utf-8"})
        else:
            self.route()

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any  # noqa: N815

    def drain(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def route(self) -> None:
        parts = urlsplit(self.path)
        for old, new in self.hub.moved.items():
            if re.search(f"/{old}(?=[/.]|$)", parts.path):
                self.drain()
                self.answer(307, b"", {"Location": self.path.replace(f"/{old}", f"/{new}", 1)})
                return
        path, query = unquote(parts.path), parse_qs(parts.query)
        for pattern, method in ROUTES:
            if found := re.fullmatch(pattern, f"{self.command} {path}"):
                method(
                    self,
                    *found.groups(),
                    **({"query": query} if "/commit/" in pattern or "/preupload/" in pattern else {}),
                )
                return
        self.drain()
        self.json(404, {"error": f"no route {self.path}"})

    # --- answers

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def json(self, status: int, content: object, headers: dict[str, str] | None = None) -> None:
        self.answer(status, json.dumps(content).encode(), {"Content-Type": "application/json", **(headers or {})})

    # --- who

    def user(self) -> tuple[str, str, list[str]] | None:
        return self.hub.users.get(self.headers.get("Authorization", "").removeprefix("Bearer "))

    def whoami(self) -> None:
        user = self.user()
        if user is None:
            self.json(401, {"error": "Invalid username or password."})
            return
        name, role, organisations = user
        token = {"accessToken": {"displayName": "test", "role": role}}
        orgs = [{"name": one, "type": "org", "roleInOrg": self.hub.roles.get(one, "write")} for one in organisations]
        self.json(200, {"type": "user", "name": name, "orgs": orgs, "auth": token})

    def repo(self, name: str, write: bool = False, pull_request: bool = False) -> Repo | None:
        """The repo if this user may see it (or write to it, or to a pull request); else the error has been sent."""
        user, found = self.user(), self.hub.repos.get(name)
        mine = user is not None and name.split("/")[0] in (user[0], *user[2])
        if found is None or (found.private and not mine):
            self.drain()
            self.json(401 if user is None else 404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return None
        if write and not ((mine or pull_request) and user and user[1] == "write"):
            self.drain()
            self.json(403, {"error": "You don't have the rights"}, {"X-Error-Message": "You don't have the rights"})
            return None
        return found

    def commit_id(self, repo: Repo, revision: str) -> str | None:
        sha = repo.branches.get(revision, revision)
        if sha in repo.commits:
            return sha
        self.json(404, {"error": f"Invalid rev id: {revision}"}, {"X-Error-Code": "RevisionNotFound"})
        return None

    # --- reading

    def info(self, name: str, revision: str = "main") -> None:
        repo = self.repo(name)
        if repo is None:
            return
        sha = self.commit_id(repo, revision)
        if sha is not None:
            siblings = [{"rfilename": path} for path in repo.commits[sha]]
            self.json(200, {"id": name, "sha": sha, "siblings": siblings, "tags": [], "private": repo.private})

    def listing(self, name: str, revision: str) -> None:
        repo = self.repo(name)
        sha = repo and self.commit_id(repo, revision)
        if not repo or not sha:
            return
        items = []
        for path, stored in repo.commits[sha].items():
            item = {"type": "file", "path": path, "size": size_of(stored), "oid": "0" * 40}
            if LARGE.match(path):
                item["lfs"] = {"oid": sha256_of(stored), "size": size_of(stored), "pointerSize": 134}
            else:
                item["oid"] = blob_of(stored)
            items.append(item)
        self.json(200, items)

    def resolve(self, name: str, revision: str, path: str) -> None:
        repo = self.repo(name)
        sha = repo and self.commit_id(repo, revision)
        if not repo or not sha:
            return
        user = self.user()
        if repo.accepted is not None and (user is None or user[0] not in repo.accepted):
            headers = {"X-Error-Code": "GatedRepo", "X-Error-Message": f"Access to model {name} is restricted."}
            self.json(403 if user else 401, {"error": headers["X-Error-Message"]}, headers)
            return
        stored = repo.commits[sha].get(path)
        if stored is None:
            self.json(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": sha})
            return
        digest = sha256_of(stored) if LARGE.match(path) else blob_of(stored)
        self.send_content(
            stored,
            {"X-Repo-Commit": sha, "ETag": f'"{digest}"', "X-Linked-Etag": f'"{digest}"'},
        )

    def plain(self, path: str) -> None:
        if path in self.hub.files:
            self.send_content(self.hub.files[path], {"ETag": f'"{hash(self.hub.files[path])}"'} | self.hub.headers)
        else:
            self.answer(404, b"no such file")

    def send_content(self, stored: Path | bytes, headers: dict[str, str]) -> None:
        size = size_of(stored)
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        asked = self.headers.get("If-Range")
        if asked and asked not in (headers.get("ETag"), headers.get("Last-Modified")):
            found = None
        start = int(found[1]) if found else 0
        if start >= size > 0:
            self.answer(416, b"")
            return
        self.send_response(206 if start else 200)
        headers = {
            **headers,
            "X-Linked-Size": str(size),
            "Accept-Ranges": "bytes",
            "Content-Type": "binary/octet-stream",
        }
        if start:
            headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        if self.fault and self.fault.chunked:
            headers["Transfer-Encoding"] = "chunked"
        else:
            headers["Content-Length"] = str(size - start)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.send_body(stored, start)

    def send_body(self, stored: Path | bytes, start: int) -> None:
        fault = self.fault
        if fault is None:
            self.stream(stored, start)
            return
        body = content_of(stored)[start:]
        if fault.flip:
            body = bytes([body[0] ^ 1]) + body[1:]
        if fault.chunked:
            body += fault.chunked
            self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
            return
        self.wfile.write(body[: fault.cut])
        self.close_connection = fault.cut is not None

    def stream(self, stored: Path | bytes, start: int) -> None:
        if isinstance(stored, bytes):
            self.wfile.write(stored[start:])
            return
        with stored.open("rb") as file:
            file.seek(start)
            shutil.copyfileobj(file, self.wfile, 1 << 20)

    # --- writing

    def create(self) -> None:
        asked, user = json.loads(self.drain()), self.user()
        if user is None:
            self.json(401, {"error": "Invalid username or password."})
            return
        name = f"{asked.get('organization') or user[0]}/{asked['name']}"
        url = {"url": f"{self.hub.url}/{name}"}
        if user[1] != "write" or name.split("/")[0] not in (user[0], *user[2]):
            self.json(403, {"error": "You don't have the rights"})
        elif name in self.hub.repos:
            self.json(409, url)
        else:
            private = asked.get("private", False) or asked.get("visibility") == "private"
            repo = self.hub.repos[name] = Repo(private)
            self.hub.commit(repo, "main", {".gitattributes": b"*.safetensors filter=lfs\n"})
            self.json(200, url)

    def branch(self, name: str, branch: str) -> None:
        self.drain()
        repo = self.repo(name, write=True)
        if repo and branch in repo.branches:
            self.json(409, {"error": "Reference already exists"})
        elif repo:
            repo.branches[branch] = repo.branches["main"]
            self.json(200, {})

    def validate(self) -> None:
        self.drain()
        self.json(200, {"errors": [], "warnings": []})

    def preupload(self, name: str, revision: str, query: dict[str, list[str]]) -> None:
        asked = json.loads(self.drain())
        if self.repo(name, write=True, pull_request="create_pr" in query) is None:
            return
        mode = [
            {"path": one["path"], "uploadMode": "lfs" if LARGE.match(one["path"]) else "regular", "shouldIgnore": False}
            for one in asked["files"]
        ]
        self.json(200, {"files": mode})

    def batch(self, name: str) -> None:
        asked = json.loads(self.drain())
        if self.repo(name, write=True, pull_request=True) is None:  # the request does not say what it is for
            return
        objects = []
        for one in asked["objects"]:
            item = dict(one)
            if not (self.hub.folder / one["oid"]).is_file():
                links = {"upload": f"/lfs/{one['oid']}", "verify": f"/lfs-verify/{one['oid']}"}
                item["actions"] = {key: {"href": self.hub.url + path} for key, path in links.items()}
            objects.append(item)
        self.json(200, {"transfer": "basic", "objects": objects})

    def put(self, oid: str) -> None:
        left, digest = int(self.headers["Content-Length"]), hashlib.sha256()
        partial = self.hub.folder / f"{oid}.{threading.get_ident()}.part"
        with partial.open("wb") as file:
            while left and (chunk := self.rfile.read(min(left, 1 << 20))):
                digest.update(chunk)
                file.write(chunk)
                left -= len(chunk)
        if digest.hexdigest() != oid:
            self.answer(400, b"the bytes do not match their hash")
            return
        partial.replace(self.hub.folder / oid)
        self.answer(200, b"")

    def verify(self, oid: str) -> None:
        self.drain()
        self.json(200 if (self.hub.folder / oid).is_file() else 404, {})

    def commit(self, name: str, revision: str, query: dict[str, list[str]]) -> None:
        lines = [json.loads(line) for line in self.drain().splitlines()]
        repo = self.repo(name, write=True, pull_request="create_pr" in query)
        if repo is None:
            return
        with self.hub.lock:
            branch = revision
            if "create_pr" in query:
                repo.pull_requests += 1
                branch = f"refs/pr/{repo.pull_requests}"
            tree = self.hub.tree(repo, revision)
            for line in lines:
                value = line["value"]
                if line["key"] == "file":
                    tree[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    tree[value["path"]] = self.hub.folder / value["oid"]
                elif line["key"] == "deletedFile":
                    tree.pop(value["path"], None)
            sha = self.hub.commit(repo, branch, tree)
        answer = {"commitUrl": f"{self.hub.url}/{name}/commit/{sha}", "commitOid": sha, "commitMessage": ""}
        if branch != revision:
            answer["pullRequestUrl"] = f"{self.hub.url}/{name}/discussions/{repo.pull_requests}"
        self.json(200, answer)


_ID = r"([\w.-]+/[\w.-]+)"
_KIND = "(?:models|datasets)"
ROUTES = [
    (r"GET /api/whoami-v2", _Handler.whoami),
    (r"POST /api/repos/create", _Handler.create),
    (r"POST /api/validate-yaml", _Handler.validate),
    (rf"GET /api/{_KIND}/{_ID}", _Handler.info),
    (rf"GET /api/{_KIND}/{_ID}/revision/(.+)", _Handler.info),
    (rf"GET /api/{_KIND}/{_ID}/tree/([^/]+|refs/.+)", _Handler.listing),
    (rf"POST /api/models/{_ID}/branch/(.+)", _Handler.branch),
    (rf"POST /api/models/{_ID}/preupload/(.+)", _Handler.preupload),
    (rf"POST /api/models/{_ID}/commit/(.+)", _Handler.commit),
    (rf"POST /{_ID}\.git/info/lfs/objects/batch", _Handler.batch),
    (r"PUT /lfs/(\w+)", _Handler.put),
    (r"POST /lfs-verify/(\w+)", _Handler.verify),
    (rf"(?:GET|HEAD) /(?:datasets/)?{_ID}/resolve/([^/]+|refs/pr/\d+)/(.+)", _Handler.resolve),
    (r"GET /files/(.+)", _Handler.plain),
]


if __name__ == "__main__":
    server = Server(Path(sys.argv[1]), {"hf_bench": ("bench", "write", [])})
    print(server.url, flush=True)
    threading.Event().wait()
