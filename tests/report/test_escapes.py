"""A run from someone else whose strings hold what a terminal, a page or a spreadsheet would obey."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import re
import shutil
from pathlib import Path
from xml.dom import minidom

import pytest

from harness.__main__ import main
from tests.made_up.builder import DATA

POISON = "\x1b]0;x\x07\x1b[31m\x9b\x00\u202e\u2028\u200b\ufeff<script>alert(1)</script>$\\frac{"
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The frozen run with poison in names, versions, notices, command, reasons and its directory's name."""
    run = Path(shutil.copytree(DATA / "run", tmp_path_factory.mktemp("runs") / "r\x1b[2J\u202e"))
    record = json.loads((run / "run.json").read_text())
    record["model"]["name"] += POISON
    record["device"]["name"] += POISON
    record["versions"] = {name: f"{version}{POISON}" for name, version in record["versions"].items()}
    record["notices"] = [f"=1+1{POISON}"]
    record["command"] = ["python", POISON]
    (run / "run.json").write_text(json.dumps(record))
    results = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    for result in results:
        result["cell"]["provider"] = f"=cmd{POISON}"
        result["reason"] = f"@{result['reason']}\n{POISON}"
    (run / "samples.jsonl").write_text("".join(json.dumps(result) + "\n" for result in results))
    return run


@pytest.fixture(scope="module")
def written(poisoned: Path) -> Path:
    assert main(["report", str(poisoned)]) == 0
    assert main(["compare", str(poisoned), str(DATA / "run"), "--output", str(poisoned / "compared")]) == 0
    return poisoned


@pytest.mark.parametrize(
    "name",
    ["tables.md", "tables.csv", "report.html", "compared/compare.csv", "compared/compare.html"],
)
def test_no_file_of_a_report_holds_what_is_obeyed(written: Path, name: str) -> None:
    text = (written / name).read_bytes().decode()
    assert not OBEYED.findall(text)
    assert r"\x1b]0;x\x07" in text
    assert name.endswith(".csv") or "<script>alert" not in text


def test_plots_show_it_as_text(written: Path) -> None:
    for file in (written / "plots").glob("*.svg"):
        assert not OBEYED.findall(minidom.parse(str(file)).toxml())


@pytest.mark.parametrize("command", ["report", "compare", "error"])
def test_nothing_on_the_screen_is_obeyed(
    written: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    arguments = {
        "report": ["report", str(written)],
        "compare": ["compare", str(written), str(DATA / "run")],
        "error": ["report", str(written / "\x1b[2Jmissing")],
    }
    main(arguments[command])
    shown = capsys.readouterr()
    assert not OBEYED.findall(shown.out + shown.err)
    assert r"\x1b[" in shown.out + shown.err


@pytest.mark.parametrize("name", ["tables.csv", "compared/compare.csv"])
def test_no_text_of_a_csv_is_a_formula(written: Path, name: str) -> None:
    rows = list(csv.reader((written / name).open(encoding="utf-8")))
    texts = {cell for row in rows for cell in row if not re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?", cell)}
    assert any(text.startswith("'=") for text in texts)
    assert not [text for text in texts if text.startswith(("=", "+", "-", "@"))]


@pytest.mark.parametrize("name", ["report.html", "compared/compare.html"])
def test_a_page_lets_its_own_script_run_and_no_other(written: Path, name: str) -> None:
    html = (written / name).read_text(encoding="utf-8")
    (policy,) = re.findall('http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    (script,) = re.findall("<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert "default-src &#39;none&#39;" in policy
    assert f"script-src &#39;sha256-{digest}&#39;;" in policy
