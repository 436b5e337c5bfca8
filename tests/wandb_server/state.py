"""What the server knows: runs, artifact versions, collections and files, and the verbs that change them.

Every verb may be repeated: the same run, the same digest, the same edge are found again and not doubled.
"""

import base64
import hashlib
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime

HISTORY, EVENTS, SUMMARY, OUTPUT = "wandb-history.jsonl", "wandb-events.jsonl", "wandb-summary.json", "output.log"


class Refused(Exception):
    "A request that W&B's server would refuse."


def identifier(kind: str, *parts) -> str:
    "An opaque id as W&B writes them: base64 of kind and parts."
    return base64.b64encode(":".join([kind, *map(str, parts)]).encode()).decode()


def md5_hex(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def hex_of(digest: str) -> str:
    "W&B writes md5 digests in base64; files are kept under the hexadecimal form."
    return base64.b64decode(digest).hex()


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")


@dataclass
class Run:
    entity: str
    project: str
    id: str
    name: str = ""
    group: str | None = None
    job_type: str | None = None
    notes: str | None = None
    tags: list = field(default_factory=list)
    config_record: dict = field(default_factory=dict)  # {"rate": {"value": 0.1}, "_wandb": ...}, as sent
    summary: dict = field(default_factory=dict)
    state: str = "running"
    exit_code: int | None = None
    lines: dict = field(default_factory=dict)  # {file: {offset: line}}
    files: dict = field(default_factory=dict)  # {name: bytes}
    uses: list = field(default_factory=list)  # ids of versions
    logged: list = field(default_factory=list)  # ids of versions
    alerts: list = field(default_factory=list)  # (title, text, severity)
    resumed: int = 0  # how often a client came back to it
    more: dict = field(default_factory=dict)  # host, program, commit, sweep
    created_at: str = field(default_factory=now)

    @property
    def path(self) -> str:
        return f"{self.entity}/{self.project}/{self.id}"

    @property
    def node_id(self) -> str:
        return identifier("Run:v1", self.id, self.project, self.entity)

    @property
    def config(self) -> dict:
        return {name: entry["value"] for name, entry in self.config_record.items() if name != "_wandb"}

    @property
    def rows(self) -> list[dict]:
        return [json.loads(line) for line in self.stream(HISTORY)]

    @property
    def output(self) -> list[str]:
        return self.stream(OUTPUT)

    def stream(self, name: str) -> list[str]:
        "Lines of a streamed file by their offset."
        return [line for _, line in sorted(self.lines.get(name, {}).items())]

    def line_count(self, name: str) -> int:
        return max(self.lines.get(name, {}), default=-1) + 1

    def receive(self, body: dict) -> None:
        "One chunk of the file stream; a chunk that comes again lands on the same lines."
        for name, chunk in body.get("files", {}).items():
            lines = self.lines.setdefault(name, {})
            lines.update(enumerate(chunk["content"], start=chunk["offset"]))
            if name == SUMMARY:
                self.summary = json.loads(chunk["content"][-1])
        self.state = "running"
        if body.get("complete"):
            self.exit_code = body["exitcode"]
            self.state = "failed" if self.exit_code else "finished"


@dataclass(eq=False)
class Version:
    id: str
    entity: str
    project: str
    type: str
    name: str
    digest: str
    run: str | None  # id of the run that logged it first
    metadata: dict
    description: str | None
    collection: "Collection" = field(repr=False)
    version: int | None = None  # known once it is committed
    wanted_aliases: list = field(default_factory=list)
    tags: list = field(default_factory=list)
    state: str = "PENDING"
    history_step: int | None = None
    manifest_digest: str | None = None
    manifest: bytes | None = field(default=None, repr=False)
    files: dict = field(default_factory=dict, repr=False)  # {path: (digest, bytes)}
    references: dict = field(default_factory=dict)  # {path: uri}
    created_at: str = field(default_factory=now)

    @property
    def aliases(self) -> set:
        membership = self.collection.membership(self)
        return membership.aliases if membership else set()

    @property
    def size_bytes(self) -> int:
        return sum(len(data) for _, data in self.files.values())


@dataclass(eq=False)
class Membership:
    collection: "Collection" = field(repr=False)
    version: Version
    index: int
    aliases: set = field(default_factory=set)
    created_at: str = field(default_factory=now)


@dataclass(eq=False)
class Collection:
    "Versions under one name: those logged to it (a sequence), or linked to it (a portfolio)."

    entity: str
    project: str
    name: str
    type: str
    kind: str  # ArtifactSequence | ArtifactPortfolio
    description: str | None = None
    tags: list = field(default_factory=list)
    memberships: list = field(default_factory=list, repr=False)
    count: int = 0  # numbers ever given
    created_at: str = field(default_factory=now)

    @property
    def id(self) -> str:
        return identifier("ArtifactCollection", self.entity, self.project, self.name)

    def membership(self, version: Version) -> Membership | None:
        return next((m for m in self.memberships if m.version is version), None)

    def find(self, alias: str) -> Membership | None:
        "By alias or by number (`v3`)."
        return next((m for m in self.memberships if alias in m.aliases or alias == f"v{m.index}"), None)

    def add(self, version: Version) -> Membership:
        "The newest member is `latest`."
        membership = Membership(self, version, self.count)
        self.count += 1
        self.memberships.append(membership)
        self.move("latest", membership)
        return membership

    def move(self, alias: str, membership: Membership) -> None:
        for other in self.memberships:
            other.aliases.discard(alias)
        membership.aliases.add(alias)


@dataclass
class State:
    entity: str = "ada"  # whom the API key belongs to
    runs: dict = field(default_factory=dict)  # {entity/project/id: Run}
    all_versions: list = field(default_factory=list)  # committed or not
    collections: dict = field(default_factory=dict)  # {(entity, project, name): Collection}
    projects: dict = field(default_factory=dict)  # {(entity, project): when it was made}
    client_ids: dict = field(default_factory=dict)  # what a client calls a version before it has an id
    blobs: dict = field(default_factory=dict)  # {md5 in hex: bytes}

    # runs

    def run(self, entity: str, project: str, run_id: str) -> Run:
        try:
            return self.runs[f"{entity}/{project}/{run_id}"]
        except KeyError:
            raise Refused(f"no run {entity}/{project}/{run_id}") from None

    def upsert_run(self, values: dict) -> tuple[Run, bool]:
        "The run of this name, made if there is none; None leaves a value as it is."
        run = next((run for run in self.runs.values() if values.get("id") == run.node_id), None)
        inserted = False
        if run is None:
            entity, project = values.get("entityName") or self.entity, values.get("modelName") or "uncategorized"
            self.projects.setdefault((entity, project), now())
            key = f"{entity}/{project}/{values['name']}"
            inserted = key not in self.runs
            run = self.runs.setdefault(key, Run(entity, project, values["name"], name=values["name"]))
        run.resumed += not inserted and bool(values.get("host"))  # a client that begins names its host; what it changes later does not
        names = {"displayName": "name", "groupName": "group", "jobType": "job_type", "notes": "notes", "tags": "tags", "state": "state"}
        for sent, attribute in names.items():
            if values.get(sent) is not None:
                setattr(run, attribute, values[sent])
        if values.get("config"):
            run.config_record = json.loads(values["config"])
        if values.get("summaryMetrics"):
            run.summary = json.loads(values["summaryMetrics"])
        run.more.update({name: values[name] for name in ("host", "jobProgram", "commit", "sweep", "description") if values.get(name)})
        return run, inserted

    # versions

    @property
    def versions(self) -> list[Version]:
        return [version for version in self.all_versions if version.state == "COMMITTED"]

    def version(self, version_id: str | None, client_id: str | None = None) -> Version:
        wanted = version_id or self.client_ids.get(client_id)
        for version in self.all_versions:
            if version.id == wanted:
                return version
        raise Refused(f"no artifact {version_id or client_id}")

    def collection(self, entity: str, project: str, name: str, kind: str, artifact_type: str) -> Collection:
        self.projects.setdefault((entity, project), now())
        collection = self.collections.setdefault((entity, project, name), Collection(entity, project, name, artifact_type, kind))
        if (collection.kind, collection.type) != (kind, artifact_type):
            raise Refused(f"{name} is a {collection.kind} of type {collection.type}, not a {kind} of type {artifact_type}")
        return collection

    def collection_by_id(self, collection_id: str) -> Collection:
        for collection in self.collections.values():
            if collection.id == collection_id:
                return collection
        raise Refused(f"no collection {collection_id}")

    def delete_collection(self, collection: Collection) -> None:
        for membership in collection.memberships:
            if membership.version.collection is collection:
                self.delete_version(membership.version)
        del self.collections[collection.entity, collection.project, collection.name]

    def create_version(self, values: dict) -> Version:
        "The version with this digest that the collection has, or a new one that waits for its commit."
        entity, project = values["entityName"] or self.entity, values["projectName"]
        name = values.get("artifactCollectionName") or values["artifactCollectionNames"][0]
        collection = self.collection(entity, project, name, "ArtifactSequence", values["artifactTypeName"])
        aliases = [alias["alias"] for alias in values.get("aliases") or []]
        known = next((m for m in collection.memberships if m.version.digest == values["digest"]), None)
        if known:
            version = known.version
            for alias in aliases:
                collection.move(alias, known)
        else:
            version = self.new_version(values, collection, aliases)
        if values.get("clientID"):
            self.client_ids[values["clientID"]] = version.id
        if values.get("runName"):
            add_once(self.run(entity, project, values["runName"]).logged, version.id)
        return version

    def new_version(self, values: dict, collection: Collection, aliases: list) -> Version:
        version = Version(
            identifier("Artifact", len(self.all_versions) + 1), collection.entity, collection.project, collection.type, collection.name,
            values["digest"], values.get("runName"), json.loads(values.get("metadata") or "{}"), values.get("description"), collection,
            wanted_aliases=aliases, tags=[tag["tagName"] for tag in values.get("tags") or []], history_step=values.get("historyStep"),
        )  # fmt: skip
        self.all_versions.append(version)
        return version

    def receive_blob(self, digest_hex: str, data: bytes) -> None:
        if md5_hex(data) != digest_hex:
            raise Refused(f"the bytes have md5 {md5_hex(data)}, not {digest_hex}")
        self.blobs[digest_hex] = data

    def receive_manifest(self, version: Version, data: bytes) -> None:
        if md5_hex(data) != hex_of(version.manifest_digest):
            raise Refused(f"the manifest of {version.id} is not the one that was announced")
        version.manifest = data

    def commit(self, version: Version) -> None:
        "Only a version whose files all arrived gets its number."
        if version.state == "COMMITTED":
            return
        if version.manifest is None:
            raise Refused(f"artifact {version.id} has no manifest")
        for path, entry in json.loads(version.manifest)["contents"].items():
            if "ref" in entry:
                version.references[path] = entry["ref"]
                continue
            data = self.blobs.get(hex_of(entry["digest"]))
            if data is None or len(data) != entry["size"]:
                raise Refused(f"artifact {version.id} lacks the bytes of {path}")
            version.files[path] = (entry["digest"], data)
        membership = version.collection.add(version)
        version.version, version.state = membership.index, "COMMITTED"
        for alias in version.wanted_aliases:
            version.collection.move(alias, membership)

    def use(self, run: Run, version: Version) -> None:
        add_once(run.uses, version.id)

    def link(self, version: Version, entity: str, project: str, name: str, aliases: list) -> Membership:
        collection = self.collection(entity, project, name, "ArtifactPortfolio", version.type)
        membership = collection.membership(version) or collection.add(version)
        for alias in aliases:
            collection.move(alias, membership)
        return membership

    def delete_version(self, version: Version) -> None:
        version.state = "DELETED"
        for collection in self.collections.values():
            collection.memberships = [m for m in collection.memberships if m.version is not version]


def add_once(items: list, item) -> None:
    if item not in items:
        items.append(item)
