#!/usr/bin/env bash
# release.sh PYTHON: sdist and wheel of HEAD in dist/, the wheel made from the sdist and tried in a bare environment,
# without a checkout and without vLLM. PYTHON has the package `build`. Nothing is published. `make release` calls it.
set -euo pipefail
python=$(realpath -s "$1")
cd "$(dirname "$0")/.."
fail() { printf 'release: %s\n' "$*" >&2; exit 2; }
[ -z "$(git status --porcelain)" ] || fail "the working tree differs from HEAD; commit it, or git stash -u"
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
grep -q "^## \[$version\]" CHANGELOG.md || fail "CHANGELOG.md has no section [$version]"
elsewhere=$(mktemp -d)
trap 'rm -rf "$elsewhere"' EXIT

mkdir "$elsewhere/source" "$elsewhere/run"
git archive HEAD | tar -x -C "$elsewhere/source"
rm -rf dist
"$python" -m build --outdir dist "$elsewhere/source"

runs=(docs/runs/*.tar.xz)
tar -xf "${runs[0]}" -C "$elsewhere/run"
"$python" -m venv "$elsewhere/venv"
"$elsewhere/venv/bin/pip" install --quiet "dist/prefill_layout_harness-$version-py3-none-any.whl"
harness=$elsewhere/venv/bin/prefill-layout-harness
cd "$elsewhere"
[ "$($harness --version)" = "prefill-layout-harness $version" ] || fail "--version is not $version"
said=$($harness doctor 2>&1) && fail "doctor finds a vLLM in a bare environment"
grep -q "PROBLEM" <<< "$said" && ! grep -q "Traceback" <<< "$said" || fail "doctor: $said"
$harness report run | tail -n 4
[ -s run/report.html ] || fail "report wrote no page"
echo "release: dist/ holds prefill-layout-harness $version; --version, doctor and report work without a checkout"
