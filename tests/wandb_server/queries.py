"""What queries may ask for: a value for each type of W&B's schema, with the fields that its clients read."""

import json
import math
import operator

from .state import EVENTS, HISTORY, OUTPUT, Collection, Membership, Refused, Run, State, Version, identifier, md5_hex

FEATURES = (
    "LARGE_FILENAMES", "ARTIFACT_TAGS", "CLIENT_IDS", "ARTIFACT_COLLECTION_MEMBERSHIP_FILES", "PROJECT_ARTIFACT_COLLECTION_MEMBERSHIP",
    "USE_ARTIFACT_WITH_ENTITY_AND_PROJECT_INFORMATION", "ARTIFACT_MEMBERSHIP_IN_LINK_ARTIFACT_RESPONSE", "TOTAL_COUNT_IN_FILE_CONNECTION",
    "ARTIFACT_COLLECTIONS_FILTERING_SORTING", "MARK_RUN_FILES_UPLOADED",
)  # fmt: skip
COMPARE = {"$eq": operator.eq, "$ne": operator.ne, "$gt": operator.gt, "$gte": operator.ge, "$lt": operator.lt, "$lte": operator.le}
RUN_ATTRIBUTES = {"displayName": "name", "display_name": "name", "name": "id", "group": "group", "jobType": "job_type", "state": "state"}


def connection(items: list, first: int | None = None, after: str | None = None, **more) -> dict:
    "A page of values, as Relay's connections; the cursor is the number of the last item."
    start = int(after or 0)
    page = items[start : start + (first or len(items) or 1)]
    edges = [{"node": item, "cursor": str(start + number), **more} for number, item in enumerate(page, start=1)]
    info = {"__typename": "PageInfo", "endCursor": str(start + len(page)), "hasNextPage": start + len(page) < len(items)}
    return {"edges": edges, "pageInfo": info, "totalCount": len(items)}


class Queries:
    "Values for the answers; `url` begins the addresses for uploads and downloads."

    def __init__(self, state: State, url: str):
        self.state, self.url = state, url

    def root(self) -> dict:
        return {
            "viewer": lambda: self.user(),
            "serverInfo": lambda: {"features": [{"name": name, "isEnabled": True} for name in FEATURES]},
            "project": self.project,
            "model": self.project,
            "models": self.projects,
            "entity": lambda name=None: self.entity(name or self.state.entity),
            "organization": lambda name: None,
            "artifact": lambda id: self.artifact(self.state.version(id)),
            "artifactCollection": lambda id: self.collection(self.state.collection_by_id(id)),
            "clientIDMapping": self.client_id_mapping,
        }

    # people and projects

    def user(self) -> dict:
        name = self.state.entity
        nobody = connection([])
        teams = connection([{"name": name}])
        return {
            "__typename": "User", "id": identifier("User", 1), "name": name, "username": name, "email": f"{name}@example.com",
            "entity": name, "admin": False, "flags": "{}", "deletedAt": None, "apiKeys": nobody, "teams": teams, "organizations": [],
        }  # fmt: skip

    def entity(self, name: str) -> dict:
        return {
            "__typename": "Entity", "id": identifier("Entity", name), "name": name, "organization": None, "user": None,
            "xxhashDigestsEnabled": False,
        }  # fmt: skip

    def projects(self, entityName: str | None = None, first: int | None = None, after: str | None = None) -> dict:
        owned = sorted(pair for pair in self.state.projects if pair[0] == (entityName or self.state.entity))
        return connection([self.project(name, entity) for entity, name in owned], first, after)

    def project(self, name: str | None = None, entityName: str | None = None) -> dict | None:
        entity = entityName or self.state.entity
        if (entity, name) not in self.state.projects:
            return None
        runs = [run for run in self.state.runs.values() if (run.entity, run.project) == (entity, name)]
        by_name = {run.id: run for run in runs}

        def one_run(name: str, missingOk: bool = False) -> dict | None:
            return self.run(by_name[name]) if name in by_name else None

        def page(first=None, after=None, filters=None, order=None) -> dict:
            return connection([self.run(run) for run in ordered(filtered(runs, filters), order)], first, after)

        return {
            **self.project_info(entity, name), "entityName": entity, "createdAt": self.state.projects[entity, name],
            "isBenchmark": False, "readOnly": False, "user": self.user(), "description": None, "access": "PRIVATE", "views": "{}",
            "run": one_run, "bucket": one_run, "runs": page, "runCount": lambda filters=None: len(filtered(runs, filters)),
            **self.artifacts_of_project(entity, name),
        }  # fmt: skip

    def project_info(self, entity: str, name: str) -> dict:
        number = sorted(self.state.projects).index((entity, name)) + 1
        return {
            "__typename": "Project", "id": identifier("Project", entity, name), "internalId": str(number), "name": name,
            "entity": self.entity(entity),
        }  # fmt: skip

    # runs

    def run(self, run: Run) -> dict:
        by_id = {version.id: version for version in self.state.versions}
        project = self.project_info(run.entity, run.project)
        return {
            "__typename": "Run", "id": run.node_id, "name": run.id, "displayName": run.name, "description": run.more.get("description"),
            "notes": run.notes, "tags": run.tags, "group": run.group, "jobType": run.job_type, "state": run.state, "sweepName": None,
            "commit": run.more.get("commit"), "readOnly": False, "createdAt": run.created_at, "heartbeatAt": run.created_at,
            "config": json.dumps(run.config_record), "summaryMetrics": json.dumps(run.summary), "systemMetrics": "{}",
            "wandbConfig": lambda keys: json.dumps({key: run.config_record.get("_wandb", {}).get("value", {}).get(key) for key in keys}),
            "project": project, "projectId": project["internalId"], "user": self.user(),
            "historyLineCount": run.line_count(HISTORY), "eventsLineCount": run.line_count(EVENTS), "logLineCount": run.line_count(OUTPUT),
            "historyTail": json.dumps(run.stream(HISTORY)[-1:]), "eventsTail": json.dumps(run.stream(EVENTS)[-1:]),
            "historyKeys": history_keys(run), "history": lambda **page: history(run, **page),
            "events": lambda samples=None: run.stream(EVENTS)[:samples],
            "sampledHistory": lambda specs: [sampled(run, json.loads(spec)) for spec in specs],
            "parquetHistory": lambda liveKeys: {"parquetUrls": [], "liveData": jsonable(run.rows)},
            "logLines": lambda **page: log_lines(run, **page),
            "fileCount": len(run.files), "files": lambda **page: self.run_files(run, **page),
            "inputArtifacts": lambda **page: connection([self.artifact(by_id[i]) for i in run.uses if i in by_id], **page),
            "outputArtifacts": lambda **page: connection([self.artifact(by_id[i]) for i in run.logged if i in by_id], **page),
        }  # fmt: skip

    def run_files(self, run: Run, names=None, after=None, first=None, pattern=None) -> dict:
        if pattern:
            raise Refused("files are not searched by pattern here")
        return connection([self.run_file(run, name) for name in sorted(run.files) if not names or name in names], first, after)

    def run_file(self, run: Run, name: str) -> dict:
        data = run.files[name]
        url = f"{self.url}/files/{run.path}/{name}"
        return {
            "__typename": "File", "id": identifier("File", run.path, name), "name": name, "url": lambda upload=False: url, "directUrl": url,
            "sizeBytes": len(data), "mimetype": "application/octet-stream", "updatedAt": run.created_at, "md5": md5_hex(data),
        }  # fmt: skip

    # artifacts

    def artifacts_of_project(self, entity: str, project: str) -> dict:
        collections = [c for c in self.state.collections.values() if (c.entity, c.project) == (entity, project)]

        def named(name: str) -> Membership | None:
            wanted, _, alias = name.partition(":")
            found = next((c.find(alias or "latest") for c in collections if c.name == wanted), None)
            return found

        def one_artifact(name: str) -> dict | None:
            membership = named(name)
            return membership and self.artifact(membership.version)

        def one_membership(name: str) -> dict | None:
            membership = named(name)
            return membership and self.membership(membership)

        def one_type(name: str) -> dict | None:
            return self.artifact_type(name, [c for c in collections if c.type == name])

        def types(first=None, after=None) -> dict:
            return connection([one_type(name) for name in sorted({c.type for c in collections})], first, after)

        listed = self.collection_fields(collections)
        return {"artifact": one_artifact, "artifactCollectionMembership": one_membership, "artifactType": one_type,
                "artifactTypes": types, **listed}  # fmt: skip

    def collection_fields(self, collections: list[Collection]) -> dict:
        def one(name: str) -> dict | None:
            return next((self.collection(c) for c in collections if c.name == name), None)

        def page(first=None, after=None, filters=None, order=None) -> dict:
            wanted = json.loads(filters or "{}")
            if set(wanted) - {"name"}:
                raise Refused(f"collections are not filtered by {sorted(wanted)} here")
            return connection([self.collection(c) for c in collections if wanted.get("name", c.name) == c.name], first, after)

        return {"artifactCollection": one, "artifactCollections": page}

    def artifact_type(self, name: str, collections: list[Collection]) -> dict | None:
        if not collections:
            return None
        first = collections[0]
        return {
            "__typename": "ArtifactType", "id": identifier("ArtifactType", first.entity, first.project, name), "name": name,
            "description": None, "createdAt": first.created_at, **self.collection_fields(collections),
        }  # fmt: skip

    def collection_info(self, collection: Collection) -> dict:
        project = self.project_info(collection.entity, collection.project)
        return {"__typename": collection.kind, "id": collection.id, "name": collection.name, "project": project}

    def collection(self, collection: Collection) -> dict:
        members = sorted(collection.memberships, key=lambda m: -m.index)
        aliases = [alias for m in members for alias in self.aliases(m)]

        def artifacts(first=None, after=None, order=None, filters=None) -> dict:
            page = connection([self.artifact(m.version) for m in members], first, after)
            for edge, membership in zip(page["edges"], members[int(after or 0) :]):
                edge["version"] = f"v{membership.index}"
            return page

        def membership(aliasName: str) -> dict | None:
            found = collection.find(aliasName)
            return found and self.membership(found)

        return {
            **self.collection_info(collection), "description": collection.description, "createdAt": collection.created_at,
            "updatedAt": collection.created_at, "defaultArtifactType": {"name": collection.type}, "state": "READY",
            "tags": connection([self.tag(tag) for tag in collection.tags]), "digestAlgorithm": "MANIFEST_MD5", "artifacts": artifacts,
            "aliases": lambda first=None, after=None: connection(aliases, first, after), "artifactMembership": membership,
        }  # fmt: skip

    def tag(self, name: str) -> dict:
        return {"__typename": "Tag", "id": identifier("Tag", name), "name": name}

    def aliases(self, membership: Membership) -> list[dict]:
        info = self.collection_info(membership.collection)
        common = {"__typename": "ArtifactAlias", "artifactCollection": info}
        return [{**common, "id": identifier("ArtifactAlias", info["id"], alias), "alias": alias} for alias in sorted(membership.aliases)]

    def membership(self, membership: Membership) -> dict:
        collection = membership.collection
        return {
            "__typename": "ArtifactCollectionMembership", "id": identifier("Membership", collection.id, membership.index),
            "versionIndex": membership.index, "createdAt": membership.created_at, "aliases": self.aliases(membership),
            "artifactCollection": self.collection_info(collection), "artifact": self.artifact(membership.version),
            "files": lambda **page: self.artifact_files(membership.version, **page),
        }  # fmt: skip

    def memberships(self, version: Version) -> list[Membership]:
        return [m for c in self.state.collections.values() for m in c.memberships if m.version is version]

    def artifact(self, version: Version) -> dict:
        members = self.memberships(version)
        creator = self.state.runs.get(f"{version.entity}/{version.project}/{version.run}")
        users = [run for run in self.state.runs.values() if version.id in run.uses]
        return {
            "__typename": "Artifact", "id": version.id, "artifactSequence": lambda: self.sequence(version), "versionIndex": version.version,
            "artifactType": {"name": version.type}, "description": version.description, "metadata": json.dumps(version.metadata),
            "ttlDurationSeconds": -1, "ttlIsInherited": True, "tags": [self.tag(tag) for tag in version.tags],
            "historyStep": version.history_step, "state": version.state, "size": version.size_bytes, "digest": version.digest,
            "digestAlgorithm": "MANIFEST_MD5", "commitHash": version.digest, "fileCount": len(version.files) + len(version.references),
            "createdAt": version.created_at, "updatedAt": version.created_at, "aliases": [a for m in members for a in self.aliases(m)],
            "currentManifest": {"file": {"directUrl": f"{self.url}/manifests/{version.id}"}},
            "artifactMemberships": lambda: connection([self.membership(m) for m in members]),
            "createdBy": lambda: creator and self.run(creator), "usedBy": lambda: connection([self.run(run) for run in users]),
            "files": lambda **page: self.artifact_files(version, **page),
            "filesByManifestEntries": lambda **asked: self.files_by_entries(version, **asked),
        }  # fmt: skip

    def sequence(self, version: Version) -> dict:
        latest = version.collection.find("latest")
        return {**self.collection(version.collection), "latestArtifact": latest and self.artifact(latest.version)}

    def artifact_files(self, version: Version, names=None, first=None, after=None) -> dict:
        wanted = [path for path in sorted(version.files) if not names or path in names]
        return connection([self.artifact_file(version, path) for path in wanted], first, after)

    def files_by_entries(self, version: Version, entries, storageLayout=None, manifestVersion=None, storageRegion=None) -> dict:
        return connection([self.artifact_file(version, entry["name"]) for entry in entries])

    def artifact_file(self, version: Version, path: str) -> dict:
        digest, data = version.files[path]
        url = f"{self.url}/blobs/{md5_hex(data)}"
        return {
            "__typename": "File", "id": identifier("File", version.id, path), "name": path, "displayName": path, "url": url,
            "directUrl": url, "sizeBytes": len(data), "storagePath": path, "mimetype": "application/octet-stream",
            "updatedAt": version.created_at, "digest": digest, "md5": md5_hex(data),
        }  # fmt: skip

    def client_id_mapping(self, clientID: str) -> dict | None:
        known = self.state.client_ids.get(clientID)
        return known and {"serverID": known}


def history(run: Run, samples: int | None = None, minStep: int = 0, maxStep: int | None = None) -> list[str]:
    "Lines of the history with their steps in [minStep, maxStep)."
    lines = [line for line in run.stream(HISTORY) if minStep <= json.loads(line)["_step"] < (float("inf") if maxStep is None else maxStep)]
    return lines[:samples]


def sampled(run: Run, spec: dict) -> list[dict]:
    "The rows that have all of the keys, and these keys alone."
    rows = [{key: row[key] for key in spec["keys"]} for row in run.rows if all(key in row for key in spec["keys"])]
    return jsonable(rows[: spec.get("samples")])


def jsonable(value):
    "JSON has no NaN and no infinity; W&B writes their names."
    if isinstance(value, dict):
        return {key: jsonable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def log_lines(run: Run, first=None, after=None, last=None, useImprovedPagination=True) -> dict:
    lines = [log_line(number, line) for number, line in enumerate(run.output)]
    return connection(lines[-last:] if last else lines, first, after)


def log_line(number: int, line: str) -> dict:
    "A line of the console, which came as `[ERROR ]TIME TEXT`."
    level, rest = ("error", line.removeprefix("ERROR ")) if line.startswith("ERROR ") else ("info", line)
    timestamp, _, text = rest.partition(" ")
    return {"__typename": "LogLine", "number": number, "line": text, "timestamp": timestamp, "level": level, "label": None}


def history_keys(run: Run) -> dict:
    rows = run.rows
    names = sorted({name for row in rows for name in row})
    return {"lastStep": rows[-1]["_step"] if rows else -1, "sets": [], "keys": {name: {"typeCounts": []} for name in names}}


def value_of(run: Run, name: str):
    "A run's value under the name that filters and orders use."
    head, _, rest = name.partition(".")
    if head == "config":
        return run.config.get(rest.removesuffix(".value"))
    if head in ("summary_metrics", "summaryMetrics"):
        return run.summary.get(rest)
    if name in ("created_at", "createdAt", "heartbeat_at", "heartbeatAt"):
        return run.created_at
    if name == "tags":
        return run.tags
    if name in RUN_ATTRIBUTES:
        return getattr(run, RUN_ATTRIBUTES[name])
    raise Refused(f"runs are not searched by {name!r} here")


def matches(run: Run, condition: dict) -> bool:
    "Whether a run meets a condition in MongoDB's form, as far as tests use it."
    for name, wanted in condition.items():
        if name in ("$and", "$or"):
            if not (all if name == "$and" else any)(matches(run, part) for part in wanted):
                return False
            continue
        value = value_of(run, name)
        for sign, operand in (wanted if isinstance(wanted, dict) else {"$eq": wanted}).items():
            if not holds(value, sign, operand):
                return False
    return True


def holds(value, sign: str, operand) -> bool:
    if sign == "$in":
        return any(item in operand for item in (value if isinstance(value, list) else [value]))
    if sign not in COMPARE:
        raise Refused(f"runs are not filtered by {sign} here")
    if isinstance(value, list):
        return (operand in value) == (sign == "$eq")
    return value is not None and COMPARE[sign](value, operand)


def filtered(runs: list[Run], filters: str | None) -> list[Run]:
    condition = json.loads(filters or "{}")
    return [run for run in runs if matches(run, condition)]


def ordered(runs: list[Run], order: str | None) -> list[Run]:
    name = (order or "+created_at").lstrip("+-")
    known = [run for run in runs if value_of(run, name) is not None]
    known.sort(key=lambda run: value_of(run, name), reverse=(order or "").startswith("-"))
    return known + [run for run in runs if value_of(run, name) is None]
