"""The device without torch: hidden devices, and a description that holds anywhere."""

from __future__ import annotations

import json
import sys

import pytest

from harness import device


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_hidden_devices_leave_the_cpu(monkeypatch, hidden):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert device.kind() == "cpu"
    described = device.describe()
    assert described["kind"] == "cpu"
    assert described["cores"] >= 1
    assert described["memory_bytes"] > 2**20
    assert described["name"]


def test_the_description_fits_its_kind_and_into_json():
    described = json.loads(json.dumps(device.describe()))
    assert described["kind"] == device.kind()
    assert {"name", "memory_bytes"} <= described.keys()


def test_versions_name_the_engine_the_harness_and_python():
    versions = json.loads(json.dumps(device.versions()))
    assert {"python", "vllm", "torch", "flash-attn", "transformers", "numpy", "commit"} <= versions.keys()
    assert versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert versions["harness"]
