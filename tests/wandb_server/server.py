"""The server itself: HTTP on 127.0.0.1, the list of what was asked, and faults on demand."""

import gzip
import json
import pickle
import re
import socket
import struct
import threading
import traceback
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from .documents import Document, UnknownField
from .mutations import Mutations
from .queries import Queries
from .state import Refused, State

# The least patience that wandb has: no retries at all (0) means its default (20 and more), and so does a wait below a second.
IMPATIENT = {
    f"WANDB_X_{line}_RETRY_{limit}": "1"
    for line in ("GRAPHQL", "FILE_STREAM", "FILE_TRANSFER")
    for limit in ("MAX", "WAIT_MIN_SECONDS", "WAIT_MAX_SECONDS")
}
RESET = struct.pack("ii", 1, 0)  # SO_LINGER of no time: closing sends RST, as a cut line does


class WandbServer:
    """A W&B server for tests; a context manager.

    What one server holds lasts as long as the object, or in `folder`. All requests take their turn, so what two clients do is never mixed.
    """

    def __init__(
        self,
        folder: str | Path | None = None,  # where its state is kept when it stops, and read when it starts
        port: int = 0,  # 0: any free one
    ):
        self.file = Path(folder) / "state.pickle" if folder else None
        self.state = pickle.loads(self.file.read_bytes()) if self.file and self.file.exists() else State()
        self.requests: list[tuple[str, dict]] = []
        self.unknown: list[str] = []  # what was asked and is not answered here
        self.faults = Faults()
        self.lock = threading.RLock()
        self.http = HttpServer(("127.0.0.1", port), Handler)
        self.http.owner = self
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.queries = Queries(self.state, self.url)
        self.mutations_root = Mutations(self.queries).root()

    def __enter__(self) -> "WandbServer":
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *error) -> None:
        self.http.shutdown()
        self.http.server_close()
        if self.file:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self.file.write_bytes(pickle.dumps(self.state))

    @property
    def environ(self) -> dict[str, str]:
        "Environment of a client: this server, a key, and nothing that waits or reports elsewhere."
        return {
            "WANDB_BASE_URL": self.url, "WANDB_API_KEY": "a" * 40, "WANDB_ERROR_REPORTING": "false",
            "WANDB_SILENT": "true", "WANDB_CONSOLE": "off", "WANDB_DISABLE_GIT": "true", "WANDB_X_DISABLE_STATS": "true",
            "WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": "0.1", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1",
        }  # fmt: skip

    @property
    def runs(self) -> dict:
        return self.state.runs

    @property
    def versions(self) -> list:
        return self.state.versions

    @property
    def links(self) -> list[tuple[str, str, set]]:
        "(id of the version, `entity/project/name` of the collection, aliases there)"
        portfolios = [c for c in self.state.collections.values() if c.kind == "ArtifactPortfolio"]
        return [(m.version.id, f"{c.entity}/{c.project}/{c.name}", set(m.aliases)) for c in portfolios for m in c.memberships]

    def mutations(self, name: str) -> int:
        "How often an operation was asked for."
        return sum(operation == name for operation, _ in self.requests)

    # faults

    def cut(
        self,
        after: int,  # so many requests are answered
        operation: str | None = None,  # count these alone: an operation's name, file_stream, upload or download
        lose_answer: bool = False,  # the request at which the line is cut is still carried out
        then: int | None = None,  # the status with which a proxy answers all that comes later, so that clients do not try again
    ) -> None:
        "From then on every connection is reset, or answered by a proxy, until `mend`."
        with self.lock:
            self.faults.cut(after, operation, lose_answer, then)

    def mend(self) -> None:
        with self.lock:
            self.faults = Faults()

    def fail(self, status: int, operation: str | None = None, times: int = 1) -> None:
        "Answer the next requests with this status."
        with self.lock:
            self.faults.failures.append([status, operation, times])

    # answers

    def graphql(self, body: dict) -> tuple[int, dict]:
        try:
            document = Document(body["query"], body.get("variables") or {})
            root = self.mutations_root if document.kind == "mutation" else self.queries.root()
            return 200, {"data": document.execute(root)}
        except UnknownField as error:
            self.unknown.append(f"{body['query'].split('{')[0].strip()}: {error}")
            return 400, {"errors": [{"message": self.unknown[-1]}]}
        except Refused as error:
            return 200, {"data": None, "errors": [{"message": str(error)}]}
        except Exception:
            self.unknown.append(traceback.format_exc())
            return 400, {"errors": [{"message": self.unknown[-1]}]}

    def file_stream(self, entity: str, project: str, run_id: str, body: dict) -> tuple[int, dict]:
        self.state.run(entity, project, run_id).receive(body)
        return 200, {"exitcode": None, "limits": {}}

    def upload(self, kind: str, rest: str, data: bytes) -> None:
        if kind == "blobs":
            return self.state.receive_blob(rest, data)
        if kind == "manifests":
            return self.state.receive_manifest(self.state.version(rest), data)
        entity, project, run_id, name = rest.split("/", 3)
        self.state.run(entity, project, run_id).files[name] = data

    def download(self, path: str) -> bytes | None:
        kind, _, rest = path.lstrip("/").partition("/")
        if kind == "manifests":
            return self.state.version(rest).manifest
        if kind == "files":
            entity, project, run_id, name = rest.split("/", 3)
            return self.state.run(entity, project, run_id).files.get(name)
        if kind in ("blobs", "artifactsV2"):
            return next((self.state.blobs[part] for part in rest.split("/") if part in self.state.blobs), None)
        return None


class Faults:
    "Which requests are not answered as they should be."

    def __init__(self):
        self.left: int | None = None
        self.operation: str | None = None
        self.lose_answer = False
        self.then: int | None = None
        self.gone = False
        self.failures: list[list] = []

    def cut(self, after: int, operation: str | None, lose_answer: bool, then: int | None) -> None:
        self.left, self.operation, self.lose_answer, self.then = after, operation, lose_answer, then

    def reached(self, operation: str) -> bool:
        "Whether the line is cut at this request."
        if self.left is None or self.gone or self.operation not in (None, operation):
            return False
        self.left -= 1
        self.gone = self.left < 0
        return self.gone

    def failure(self, operation: str) -> int | None:
        for fault in self.failures:
            status, wanted, times = fault
            if times and wanted in (None, operation):
                fault[2] -= 1
                return status
        return None


class HttpServer(ThreadingHTTPServer):
    daemon_threads = True
    owner: WandbServer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: HttpServer

    def log_message(self, *arguments) -> None:
        pass

    def handle(self) -> None:
        with suppress(ConnectionError):
            super().handle()

    def do_GET(self) -> None:
        self.respond()

    do_POST = do_PUT = do_GET

    def respond(self) -> None:
        owner, path = self.server.owner, unquote(urlsplit(self.path).path)
        data = self.body()
        operation, variables = described(self.command, path, data)
        with owner.lock:
            owner.requests.append((operation, variables))
            cut = owner.faults.reached(operation)
            if owner.faults.gone and not cut and owner.faults.then:
                return self.send(owner.faults.then, b"there is no such host")
            if owner.faults.gone and not (cut and owner.faults.lose_answer):
                return self.reset()
            status = owner.faults.failure(operation)
            answer = (status, {"errors": [{"message": f"status {status} was asked for"}]}) if status else self.answer(path, data)
        if cut:
            return self.reset()
        self.send(*answer)

    def answer(self, path: str, data: bytes) -> tuple[int, dict | bytes]:
        owner = self.server.owner
        stream = re.fullmatch(r"/files/([^/]+)/([^/]+)/([^/]+)/file_stream", path)
        try:
            if self.command == "POST" and path == "/graphql":
                return owner.graphql(json.loads(data))
            if self.command == "POST" and stream:
                return owner.file_stream(*stream.groups(), json.loads(data))
            if self.command == "PUT" and path.startswith("/upload/"):
                _, _, kind, rest = path.split("/", 3)
                owner.upload(kind, rest, data)
                return 200, b""
            if self.command == "GET" and (found := owner.download(path)) is not None:
                return 200, found
        except Refused as error:
            return 404, {"errors": [{"message": str(error)}]}
        owner.unknown.append(f"{self.command} {path}")
        return 404, {"errors": [{"message": owner.unknown[-1]}]}

    def body(self) -> bytes:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(data) if self.headers.get("Content-Encoding") == "gzip" else data

    def send(self, status: int, answer: dict | bytes) -> None:
        data = answer if isinstance(answer, bytes) else json.dumps(answer, allow_nan=False).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/octet-stream" if isinstance(answer, bytes) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.connection.close()


def described(method: str, path: str, data: bytes) -> tuple[str, dict]:
    "A request as `WandbServer.requests` shows it."
    if path == "/graphql":
        body = json.loads(data)
        name = re.search(r"\b(?:query|mutation)\s+(\w+)", body["query"])
        return name.group(1) if name else "anonymous", body.get("variables") or {}
    if path.endswith("/file_stream"):
        return "file_stream", json.loads(data)
    return {"PUT": "upload", "GET": "download"}.get(method, method), {"path": path}
