"""What mutations do: arguments of W&B's schema to the verbs of `State`."""

import json

from .queries import Queries, connection
from .state import Refused, Run, Version, hex_of, identifier, now

VERBS = (
    "upsertBucket", "upsertModel", "createRunFiles", "markRunFilesUploaded", "deleteRun", "notifyScriptableRunAlert",
    "createArtifact", "createArtifactManifest", "updateArtifactManifest", "createArtifactFiles", "commitArtifact",
    "useArtifact", "linkArtifact", "unlinkArtifact", "updateArtifact", "deleteArtifact", "addAliases", "deleteAliases",
    "updateArtifactSequence", "updateArtifactPortfolio", "deleteArtifactSequence", "deleteArtifactPortfolio",
)  # fmt: skip


class Mutations:
    def __init__(self, queries: Queries):
        self.queries, self.state, self.url = queries, queries.state, queries.url

    def root(self) -> dict:
        return {name: lambda input, name=name: getattr(self, name)(input) for name in VERBS}

    # runs

    def upsertBucket(self, values: dict) -> dict:
        run, inserted = self.state.upsert_run(values)
        return {"bucket": self.queries.run(run), "inserted": inserted}

    def upsertModel(self, values: dict) -> dict:
        entity, name = values.get("entityName") or self.state.entity, values["name"]
        inserted = (entity, name) not in self.state.projects
        self.state.projects.setdefault((entity, name), now())
        project = self.queries.project(name, entity)
        return {"project": project, "model": project, "inserted": inserted}

    def createRunFiles(self, values: dict) -> dict:
        run = self.run(values)
        files = [{"name": name, "uploadUrl": f"{self.url}/upload/files/{run.path}/{name}"} for name in values["files"]]
        return {"runID": run.node_id, "uploadHeaders": [], "files": files}

    def markRunFilesUploaded(self, values: dict) -> dict:
        run = self.run(values)
        return {"success": all(name in run.files for name in values["files"])}

    def deleteRun(self, values: dict) -> dict:
        run = next((run for run in self.state.runs.values() if run.node_id == values["id"]), None)
        if run is None:
            raise Refused(f"no run {values['id']}")
        del self.state.runs[run.path]
        return {"clientMutationId": None}

    def notifyScriptableRunAlert(self, values: dict) -> dict:
        self.run(values).alerts.append((values["title"], values["text"], values["severity"]))
        return {"success": True}

    def run(self, values: dict) -> Run:
        return self.state.run(values.get("entityName") or self.state.entity, values["projectName"], values["runName"])

    # versions

    def createArtifact(self, values: dict) -> dict:
        version = self.state.create_version(values)
        return {"__typename": "CreateArtifactPayload", "artifact": self.queries.artifact(version)}

    def createArtifactManifest(self, values: dict) -> dict:
        version = self.state.version(values["artifactID"])
        if values["type"] != "FULL":
            raise Refused(f"manifests of type {values['type']} are not taken here")
        version.manifest_digest = values["digest"]
        return self.manifest(version)

    def updateArtifactManifest(self, values: dict) -> dict:
        version = next(v for v in self.state.all_versions if manifest_id(v) == values["artifactManifestID"])
        version.manifest_digest = values["digest"]
        return self.manifest(version)

    def manifest(self, version: Version) -> dict:
        url = f"{self.url}/upload/manifests/{version.id}"
        file = {"id": identifier("File", version.id, "manifest"), "uploadUrl": url, "uploadHeaders": []}
        return {"artifactManifest": {"id": manifest_id(version), "file": file}}

    def createArtifactFiles(self, values: dict) -> dict:
        return {"files": connection([self.new_file(file) for file in values["artifactFiles"]])}

    def new_file(self, file: dict) -> dict:
        "Where to send a file's bytes; nowhere, if they are here already."
        if file.get("uploadPartsInput"):
            raise Refused("files are not taken in parts here")
        digest = hex_of(file["md5"])
        url = None if digest in self.state.blobs else f"{self.url}/upload/blobs/{digest}"
        version = self.state.version(file["artifactID"])
        return {
            "name": file["name"], "displayName": file["name"], "storagePath": f"blobs/{digest}", "uploadUrl": url, "uploadHeaders": [],
            "uploadMultipartUrls": None, "artifact": {"id": version.id},
        }  # fmt: skip

    def commitArtifact(self, values: dict) -> dict:
        version = self.state.version(values["artifactID"])
        self.state.commit(version)
        return {"artifact": self.queries.artifact(version)}

    def useArtifact(self, values: dict) -> dict:
        version = self.state.version(values["artifactID"])
        self.state.use(self.run(values), version)
        return {"artifact": self.queries.artifact(version)}

    def linkArtifact(self, values: dict) -> dict:
        version = self.state.version(values.get("artifactID"), values.get("clientID"))
        aliases = [alias["alias"] for alias in values.get("aliases") or []]
        membership = self.state.link(version, values["entityName"], values["projectName"], values["artifactPortfolioName"], aliases)
        return {"versionIndex": membership.index, "artifactMembership": self.queries.membership(membership)}

    def unlinkArtifact(self, values: dict) -> dict:
        version = self.state.version(values["artifactID"])
        for collection in self.state.collections.values():
            if collection.id == values["artifactPortfolioID"]:
                collection.memberships = [m for m in collection.memberships if m.version is not version]
        return {"success": True}

    def updateArtifact(self, values: dict) -> dict:
        version = self.state.version(values["artifactID"])
        if values.get("metadata") is not None:
            version.metadata = json.loads(values["metadata"])
        if values.get("description") is not None:
            version.description = values["description"]
        removed = {tag["tagName"] for tag in values.get("tagsToDelete") or []}
        added = [tag["tagName"] for tag in values.get("tagsToAdd") or []]
        version.tags = sorted({*version.tags, *added} - removed)
        return {"artifact": self.queries.artifact(version)}

    def deleteArtifact(self, values: dict) -> dict:
        version = self.state.version(values["artifactID"])
        self.state.delete_version(version)
        return {"artifact": self.queries.artifact(version)}

    def updateArtifactSequence(self, values: dict) -> dict:
        collection = self.state.collection_by_id(values.get("artifactSequenceID") or values["artifactPortfolioID"])
        if values.get("name") not in (None, collection.name):
            raise Refused("collections are not renamed here")
        collection.description = values.get("description")
        return {"artifactCollection": self.queries.collection(collection)}

    def deleteArtifactSequence(self, values: dict) -> dict:
        collection = self.state.collection_by_id(values.get("artifactSequenceID") or values["artifactPortfolioID"])
        answer = {**self.queries.collection(collection), "state": "DELETED"}
        self.state.delete_collection(collection)
        return {"artifactCollection": answer}

    updateArtifactPortfolio, deleteArtifactPortfolio = updateArtifactSequence, deleteArtifactSequence

    def addAliases(self, values: dict) -> dict:
        version = self.state.version(values["artifactID"])
        for collection, alias in self.named_aliases(values):
            collection.move(alias, collection.membership(version))
        return {"success": True}

    def deleteAliases(self, values: dict) -> dict:
        version = self.state.version(values["artifactID"])
        for collection, alias in self.named_aliases(values):
            collection.membership(version).aliases.discard(alias)
        return {"success": True}

    def named_aliases(self, values: dict):
        for alias in values["aliases"]:
            key = alias["entityName"], alias["projectName"], alias["artifactCollectionName"]
            yield self.state.collections[key], alias["alias"]


def manifest_id(version: Version) -> str:
    return identifier("ArtifactManifest", version.id)
