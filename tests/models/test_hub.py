"""Models on the hub: huggingface_hub's own client against a server on the loopback."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.models import ModelError, ModelSource, hub, inspect, materialise
from tests.models.configs import LLAMA
from tests.models.fake_hub import COMMITS, REPO, FakeHub, serving

BIG = os.urandom(3 * 10**6)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@pytest.fixture
def fake_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeHub]]:
    with serving({"config.json": json.dumps(LLAMA).encode(), "tokenizer.json": b"x"}) as (handler, address):
        go_online(monkeypatch, address)
        yield handler


def go_online(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """What HF_ENDPOINT sets in a new process."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    constants = {
        "HF_HUB_OFFLINE": False,
        "ENDPOINT": address,
        "HUGGINGFACE_CO_URL_TEMPLATE": address + "/{repo_id}/resolve/{revision}/{filename}",
    }
    for name, value in constants.items():
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)


def find(**options: str) -> ModelSource:
    return inspect(REPO, length=8, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_a_download_then_a_run_offline(
    fake_hub: type[FakeHub], weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    unwanted = ["onnx/model.safetensors", "modeling.py", "consolidated.safetensors"]
    fake_hub.files |= dict.fromkeys([weights, *unwanted], b"x")
    source = find()
    assert source.origin == "hub"
    assert source.tokenizer is not None
    path = materialise(source, seed=0).path
    assert path is not None
    assert sorted(os.listdir(path)) == sorted(["config.json", "tokenizer.json", weights])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    offline = find()
    assert (offline.origin, offline.directory) == ("directory", path)
    with pytest.raises(ModelError, match=r"not in the local cache at revision v2, .* cannot be reached"):
        find(revision="v2")


def test_a_revision(fake_hub: type[FakeHub]) -> None:
    fake_hub.files["model.safetensors"] = b"x"
    for name, commit in ((None, "main"), ("v2", "v2"), (COMMITS["v2"], "v2")):
        path = materialise(inspect(REPO, length=8, revision=name), seed=0).path
        assert path is not None
        assert path.name == COMMITS[commit]
    with pytest.raises(ModelError, match=r"^--revision v3: some/model has no such branch, tag or commit"):
        find(revision="v3")
    with pytest.raises(ModelError, match=r"^--revision v2: gpt2 is not looked up on the model hub; leave it"):
        inspect("gpt2", length=8, revision="v2")


def test_a_pooling_model_is_refused_before_its_weights_are_fetched(fake_hub: type[FakeHub]) -> None:
    modules = [{"type": "sentence_transformers.models.Pooling"}]
    fake_hub.files["modules.json"] = json.dumps(modules).encode()
    with pytest.raises(ModelError, match=f"--model {REPO}: it is a pooling model"):
        find()


def test_what_cannot_be_had(fake_hub: type[FakeHub]) -> None:
    with pytest.raises(ModelError, match="the hub has no such model, or it is private; check the name"):
        inspect("nobody/nothing", length=8)
    with pytest.raises(ModelError, match=r"no complete weights of it .* --load-format dummy"):
        materialise(find(), seed=0)
    del fake_hub.files["config.json"]
    with pytest.raises(ModelError, match=r"has neither config\.json nor Mistral's params\.json"):
        find(revision="v2")


def test_mistrals_own_layout(fake_hub: type[FakeHub], monkeypatch: pytest.MonkeyPatch) -> None:
    del fake_hub.files["config.json"]
    params = {"dim": 64, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "hidden_dim": 64, "vocab_size": 100}
    weights = ["consolidated-00001-of-00002.safetensors", "consolidated-00002-of-00002.safetensors"]
    index = {"weight_map": dict(zip("ab", weights, strict=True))}
    fake_hub.files |= dict.fromkeys([*weights, "tokenizer.model.v3"], b"x")
    fake_hub.files |= {
        "params.json": json.dumps(params).encode(),
        "consolidated.safetensors.index.json": json.dumps(index).encode(),
    }
    source = find()
    assert (source.origin, source.num_layers, source.in_mistral_format) == ("hub", 2, True)
    path = materialise(source, seed=0).path
    assert path is not None
    assert set(os.listdir(path)) == fake_hub.files.keys()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    offline = find()
    assert (offline.origin, offline.directory) == ("directory", path)


def test_an_interrupted_download_is_never_taken_for_complete(
    fake_hub: type[FakeHub], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second shard breaks off and is gone; another time it breaks off and can be resumed."""
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 10**5)
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    fake_hub.files |= {
        "model.safetensors.index.json": json.dumps(index).encode(),
        "model-1.safetensors": b"x",
        "model-2.safetensors": BIG,
    }
    source = find()
    fake_hub.breaks_off = 1
    get = fake_hub.do_GET

    def gone_after_the_break(self: FakeHub) -> None:
        if self.headers.get("Range"):
            self._answer(404)
        else:
            get(self)

    monkeypatch.setattr(fake_hub, "do_GET", gone_after_the_break)
    with pytest.raises(ModelError, match=r"the download stopped \(.*\); run it again: complete"):
        materialise(source, seed=0)
    with monkeypatch.context() as offline:
        offline.setenv("HF_HUB_OFFLINE", "1")
        with pytest.raises(ModelError, match="the copy in the local cache lacks weights"):
            find()
    monkeypatch.setattr(fake_hub, "do_GET", get)
    fake_hub.breaks_off = 1
    path = materialise(find(), seed=0).path
    assert path is not None
    assert (path / "model-2.safetensors").read_bytes() == BIG
    assert fake_hub.ranges == ["bytes=1500000-"]
    assert find().origin == "directory"


def test_a_broken_or_silent_hub_counts_as_unreachable(
    fake_hub: type[FakeHub], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hub.reachable()
    fake_hub.status = 503
    assert not hub.reachable()
    with socket.create_server(("127.0.0.1", 0)) as server:
        go_online(monkeypatch, f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr(hub, "DEADLINE_S", 0.2)
        assert not hub.reachable()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gated": True}, r"it is gated; accept its terms at http://\S+/some/model and set HF_TOKEN"),
        ({"status": 401}, r"the hub refuses access; set HF_TOKEN to a token that may read it"),
        ({"status": 403}, r"the hub refuses access; set HF_TOKEN to a token that may read it"),
    ],
)
def test_the_command_says_in_one_line_what_to_do(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    with serving({"config.json": json.dumps(LLAMA).encode()}) as (handler, address):
        for name, value in change.items():
            setattr(handler, name, value)
        kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        environment = kept | {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
        command = [sys.executable, "-m", "harness", "prefill", "--model", REPO, "--length", "8"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()[-1:]
    assert line.startswith(f"python -m harness: error: --model {REPO}: ")
    assert re.search(message, line)
