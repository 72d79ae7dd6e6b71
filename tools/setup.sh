# Sourced by ./up, ./test and ./bench: what this machine needs, installed where it is missing.
# shellcheck shell=bash

if [ -t 2 ]; then say() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }; else say() { printf '==> %s\n' "$*" >&2; }; fi
die() { printf 'skyfed: %s\n' "$*" >&2; exit 1; }

# Debian packages: `need_packages run` for a federation, `need_packages test` for the tests too. Nothing else needs root.
need_packages() {
  local missing by_hand="$ROOT/tools/packages $1"
  missing=$("$ROOT/tools/packages" --missing "$1")
  [ -n "$missing" ] || return 0
  if [ "$(id -u)" = 0 ]; then
    say "installing from Debian: $missing"
    "$ROOT/tools/packages" "$1"
  elif command -v sudo >/dev/null; then
    say "installing from Debian, by sudo: $missing"
    sudo -- "$ROOT/tools/packages" "$1" || die "could not become root; let root run once: $by_hand"
  else
    die "Debian packages are missing: $missing
skyfed: let root run once: $by_hand"
  fi
}

# The virtual environment .venv from a lock file: `need_venv requirements.lock` or `need_venv requirements-dev.lock`.
need_venv() {
  local lock=$1 python
  python=$(find_python) || die "needs Python 3.11 or newer, as python3"
  # What the tests need includes what a federation needs.
  if venv_holds requirements-dev.lock || venv_holds "$lock"; then return; fi
  if [ -e "$ROOT/.venv/bin/pytest" ]; then lock=requirements-dev.lock; fi
  mkdir -p "$ROOT/.cache"
  # Two commands started at once must not write into one environment.
  (
    flock 9
    if ! venv_holds "$lock"; then make_venv "$lock" 9>&-; fi
  ) 9>"$ROOT/.cache/venv.lock"
}

# Debian's own Python comes first: what is compiled here is compiled against its headers.
find_python() {
  local candidate
  for candidate in /usr/bin/python3 python3; do
    "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$candidate" && return
  done
  return 1
}

# Two lines: the interpreter and the place that an environment is good for, and what was installed into it.
venv_stamp() {
  "$python" -c 'import sys; print(sys.version.split()[0], sys.executable, sys.argv[1])' "$ROOT"
  cat "$ROOT/$1" "$ROOT/pyproject.toml" | sha256sum
}

venv_holds() { [ "$(venv_stamp "$1")" = "$(cat "$ROOT/.venv/skyfed.stamp" 2>/dev/null)" ]; }

make_venv() {
  local lock=$1 stamp log="$ROOT/.cache/install.log" pip=("$ROOT/.venv/bin/python" -m pip install -q --disable-pip-version-check)
  stamp=$(venv_stamp "$lock")
  say "making the virtual environment from $lock"
  # An environment cannot be moved, and one that was not finished, or made by another Python, is not worth mending.
  if [ "$(head -n 1 "$ROOT/.venv/skyfed.stamp" 2>/dev/null)" != "${stamp%%$'\n'*}" ]; then rm -rf "$ROOT/.venv"; fi
  rm -f "$ROOT/.venv/skyfed.stamp"
  {
    "$python" -m venv "$ROOT/.venv" &&
      "${pip[@]}" --require-hashes -r "$ROOT/$lock" &&
      "${pip[@]}" --no-deps --no-build-isolation -e "$ROOT"
  } >"$log" 2>&1 </dev/null || die "could not make $ROOT/.venv; the end of $log:
$(tail -n 8 "$log")"
  echo "$stamp" >"$ROOT/.venv/skyfed.stamp"
}
