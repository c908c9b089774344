"""Pushing to and pulling from a hub: the real client against a server that keeps repositories in a folder."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import catalograph
from catalograph.cli import main
from catalograph.config_file import build_config, load_config
from catalograph.hub import pull, push
from catalograph.runs import open_run
from extract.errors import CatalographError, InvalidData, MissingPrerequisite, UnsafeInput
from extract.features import FeatureTable


class Hub(BaseHTTPRequestHandler):
    """What the client asks of a hub to make a repository, commit files and fetch them."""

    root: Path
    private: dict[str, bool]
    asked: list[str]

    def do_POST(self) -> None:
        body = self.body()
        if self.path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if self.path == "/api/repos/create":
            wanted = json.loads(body)
            hidden = wanted.get("visibility") == "private" or wanted.get("private", False)
            self.private[wanted["name"]] = hidden
            kind = "datasets/" if wanted.get("type") == "dataset" else ""
            return self.answer({
                "url": f"{self.endpoint}/{kind}{wanted.get('organization', 'me')}/{wanted['name']}"
            })
        kind, repo, verb = self.parts()
        if verb == "preupload":
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]
            return self.answer({"files": files})
        if verb == "commit":
            folder = self.root / kind / repo
            for line in body.splitlines():
                row = json.loads(line)
                if row["key"] == "file":
                    path = folder / row["value"]["path"]
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(base64.b64decode(row["value"]["content"]))
            oid = self.commit(folder)
            return self.answer({"commitUrl": f"{self.endpoint}/{repo}/commit/{oid}", "commitOid": oid})
        return self.answer({"error": "unknown"}, 404)

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if found := re.match(r"/(datasets/)?([^/]+/[^/]+)/resolve/(\w+)/(.+)", self.path):
            kind = "datasets" if found[1] else "models"
            return self.file(self.root / kind / found[2] / found[4], found[3])
        kind, repo, _ = self.parts()
        folder = self.root / kind / repo
        if not folder.is_dir():
            return self.answer({"error": "not found"}, 404)
        names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
        facts = {"id": repo, "sha": self.commit(folder), "siblings": [{"rfilename": n} for n in names]}
        if "/tree/" in self.path:
            rows = [
                {"type": "file", "path": n, "size": (folder / n).stat().st_size, "oid": "0" * 40}
                for n in names
            ]
            return self.answer(rows)
        return self.answer(facts | {"private": True, "tags": [], "downloads": 0, "likes": 0})

    do_HEAD = do_GET

    def file(self, path: Path, commit: str) -> None:
        data = path.read_bytes()
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def body(self) -> bytes:
        if "Content-Length" in self.headers:
            return self.rfile.read(int(self.headers["Content-Length"]))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def parts(self) -> tuple[str, str, str]:
        found = re.match(r"/api/(models|datasets)/([^/]+/[^/?]+)/?(\w*)", self.path)
        assert found is not None, self.path
        return found[1], found[2], found[3]

    def commit(self, folder: Path) -> str:
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        return hashlib.sha1(b"".join(p.read_bytes() for p in files)).hexdigest()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def answer(self, value: Any, code: int = 200) -> None:
        data = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    from huggingface_hub import constants

    kept = type("Kept", (Hub,), {"root": tmp_path / "hub", "private": {}, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kept)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    # What HF_ENDPOINT sets when the client is imported.
    endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_not_a_token")
    yield kept
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, shop_folder: Path, one_thread: None) -> Path:
    """A run with a feature and two retrievers, and a stage that declares an adapter."""
    fake = {"engine": "fake", "buckets": 4}
    data = {
        "root": str(shop_folder), "catalog": "catalog.parquet", "interactions": "interactions.parquet",
        "catalog_columns": {"item_id": "product", "title": "name"},
        "interaction_columns": {"user": "person", "item": "product", "timestamp": "time"},
        "split": {"method": "leave_last_out"},
    }  # fmt: skip
    config = {
        "data": data, "threads": 1,
        "features": {"title": {"template": "{title}", "embed": fake}},
        "retrievers": {"item_knn": {"model": "item_knn"}, "popularity": {"model": "popularity"}},
    }  # fmt: skip
    made = catalograph.recommend(build_config(config), tmp_path_factory.mktemp("hub") / "run")
    return made.folder


def test_features_travel_with_cards_and_hashes(finished: Path, hub: type[Hub], tmp_path: Path) -> None:
    done = push(finished, "features", "me/shop")
    assert hub.private == {"shop": True}
    assert done.files == ("README.md", "catalograph.json", "title.md", "title.safetensors")
    commit = pull("me/shop", "features", tmp_path / "got")
    assert commit == done.commit
    ours = FeatureTable.load(finished / "stages/30-embed/title.safetensors")
    theirs = FeatureTable.load(tmp_path / "got/title.safetensors")
    assert theirs.content_hash() == ours.content_hash()
    assert (
        "features:\n  title: {vectors: {path: title.safetensors}}" in (tmp_path / "got/README.md").read_text()
    )
    assert sorted(p.name for p in (tmp_path / "got").iterdir()) == sorted(done.files)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".pull-")] == []


def test_a_retriever_travels_and_is_loaded_by_what_was_pulled(
    finished: Path, hub: type[Hub], tmp_path: Path
) -> None:
    from recsys.interactions import Interactions
    from recsys.models import load_model

    push(finished, "retriever", "me/knn", names=("item_knn",), public=True)
    assert hub.private == {"knn": False}
    pull("me/knn", "retriever", tmp_path / "got")
    parts = [Interactions.load(finished / f"stages/10-prepare/{name}.parquet") for name in ("train", "valid")]
    model = load_model(tmp_path / "got/item_knn", parts[0].concat(parts[1]))
    assert model.config.neighbours == 100
    assert not (tmp_path / "got/popularity").exists()
    assert "| item_knn | `item_knn` |" in (tmp_path / "got/README.md").read_text()


def test_an_adapter_travels_under_its_own_card(hub: type[Hub], tmp_path: Path) -> None:
    config = build_config({"data": {"catalog": "items.csv"}})
    weights = {
        "adapter_config.json": b"{}",
        "adapter_model.safetensors": b"weights",
        "README.md": b"# Mine\n",
    }
    with open_run(tmp_path / "run", config) as run:
        stage = run.stage("60-finetune", {})
        for name, data in weights.items():
            stage.output(f"adapter/{name}").write_bytes(data)
        stage.output("history.json").write_bytes(b"{}")
        stage.finish(["adapter", "history.json"])
    catalograph.push(tmp_path / "run", "adapter", "me/adapter")
    catalograph.pull("me/adapter", "adapter", tmp_path / "got")
    got = {path.name: path.read_bytes() for path in (tmp_path / "got").iterdir()}
    assert got == weights | {"catalograph.json": got["catalograph.json"]}


def test_the_command_line_pushes_and_pulls(
    finished: Path, hub: type[Hub], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", "features", "me/cli", "--run-dir", str(finished), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    arguments = ["--to", str(tmp_path / "got"), "--revision", told["commit"]]
    assert main(["pull", "features", "me/cli", *arguments]) == 0
    assert told["commit"] in capsys.readouterr().out
    assert main(["pull", "features", "me/cli", *arguments]) == 4
    assert main(["push", "lists", "me/cli", "--run-dir", str(finished)]) == 2


def test_a_file_that_was_changed_on_the_hub_is_refused_and_leaves_nothing(
    finished: Path, hub: type[Hub], tmp_path: Path
) -> None:
    push(finished, "features", "me/shop")
    there = hub.root / "datasets/me/shop"
    (there / "title.md").write_text("another card")
    with pytest.raises(InvalidData, match="D130"):
        pull("me/shop", "features", tmp_path / "got")
    assert not (tmp_path / "got").exists()
    manifest = json.loads((there / "catalograph.json").read_text())
    manifest["files"]["../outside.md"] = hashlib.sha256(b"x").hexdigest()
    (there / "catalograph.json").write_text(json.dumps(manifest))
    with pytest.raises(InvalidData, match="D130"):
        pull("me/shop", "features", tmp_path / "got")
    (there / "catalograph.json").unlink()
    with pytest.raises(InvalidData, match="D130"):
        pull("me/shop", "features", tmp_path / "got")


def test_nothing_but_safetensors_json_and_markdown_is_fetched(
    finished: Path, hub: type[Hub], tmp_path: Path
) -> None:
    push(finished, "features", "me/shop")
    (hub.root / "datasets/me/shop/evil.pkl").write_bytes(b"x")
    pull("me/shop", "features", tmp_path / "got")
    assert not [path for path in hub.asked if "evil" in path]
    assert not (tmp_path / "got/evil.pkl").exists()


def test_what_the_run_does_not_have_is_not_pushed(finished: Path, hub: type[Hub], tmp_path: Path) -> None:
    with pytest.raises(MissingPrerequisite, match="P102"):
        push(finished, "adapter", "me/adapter")
    with pytest.raises(CatalographError, match="C003"):
        push(finished, "features", "me/shop", names=("titel",))
    spoiled = tmp_path / "spoiled"
    shutil.copytree(finished, spoiled)
    path = spoiled / "stages/30-embed/title.md"
    path.write_bytes(path.read_bytes().swapcase())
    with pytest.raises(InvalidData, match="D113"):
        push(spoiled, "features", "me/shop")
    assert hub.private == {}


def test_a_run_without_trained_retrievers_pushes_none(finished: Path, hub: type[Hub], tmp_path: Path) -> None:
    """As a refreshed run, and one whose lists need only some of its retrievers."""
    config = load_config(finished / "config.yaml")
    for name, made in (("refreshed", "frozen/popularity.json"), ("one", "final/popularity/model.json")):
        with open_run(tmp_path / name, config) as run:
            stage = run.stage("40-train", {})
            stage.output(made).write_text(json.dumps({"model": "popularity", "config": {}, "axes": "0"}))
            stage.finish([made])
    with pytest.raises(MissingPrerequisite, match="P102"):
        push(tmp_path / "refreshed", "retriever", "me/none")
    with pytest.raises(MissingPrerequisite, match="item_knn"):
        push(tmp_path / "one", "retriever", "me/one", names=("popularity", "item_knn"))
    assert hub.private == {}
    assert "popularity/model.json" in push(tmp_path / "one", "retriever", "me/one").files


def hostile_lists() -> dict[str, dict[str, object]]:
    """Lists of hashes beside the files a.json and d/a.json of one letter, none of which may be pulled."""
    own = hashlib.sha256(b"x").hexdigest()
    names = {
        "twice": ["a.json", "./a.json"], "up": ["d/../a.json"], "slashes": ["d//a.json"], "folder": ["d"],
        "nul": ["a\0.json"], "long": ["a" * 5000], "half a letter": ["\ud800"],
        "itself": ["catalograph.json"], "linked": ["linked.json"], "nothing": [""],
    }  # fmt: skip
    return {label: dict.fromkeys(given, own) for label, given in names.items()} | {
        "empty": {}, "no hash": {"a.json": [1]},
    }  # fmt: skip


@pytest.mark.parametrize("label", hostile_lists())
def test_a_hostile_list_of_hashes_is_d130_and_leaves_nothing(
    label: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(repo: str, repo_type: str, revision: str | None, folder: Path) -> str:
        (folder / "d").mkdir()
        for name in ("a.json", "d/a.json"):
            (folder / name).write_bytes(b"x")
        (folder / "linked.json").symlink_to("a.json")
        manifest = {"kind": "features", "files": hostile_lists()[label]}
        (folder / "catalograph.json").write_text(json.dumps(manifest))
        return "commit"

    monkeypatch.setattr("catalograph.hub._download", download)
    with pytest.raises(InvalidData, match="D130"):
        pull("me/shop", "features", tmp_path / "got")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_not_on_the_list_does_not_land(finished: Path, hub: type[Hub], tmp_path: Path) -> None:
    push(finished, "features", "me/shop")
    for folder in ("whole", ".whole", "got"):
        (hub.root / "datasets/me/shop" / folder).mkdir()
        (hub.root / "datasets/me/shop" / folder / "stray.json").write_bytes(b"{}")
    pull("me/shop", "features", tmp_path / "pulled")
    assert list((tmp_path / "pulled").rglob("stray.json")) == []


def test_a_hub_that_says_no_is_an_error_without_the_token(hub: type[Hub], tmp_path: Path) -> None:
    with pytest.raises(MissingPrerequisite, match="M310") as caught:
        pull("me/nothing", "features", tmp_path / "got")
    assert "hf_not_a_token" not in str(caught.value)
    (tmp_path / "got").mkdir()
    with pytest.raises(UnsafeInput, match="U407"):
        pull("me/shop", "features", tmp_path / "got")
