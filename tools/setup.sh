# Sourced by ./up, ./test, ./bench and .ci/run: what this machine needs, installed where it is missing.
# shellcheck shell=bash

# What the virtual environment is built with, and what a federation runs on.
PACKAGES_RUN=(
  python3-venv python3-dev gcc pkg-config libvirt-dev # libvirt-python is compiled here
  qemu-system-x86 qemu-utils libvirt-daemon libvirt-daemon-driver-qemu # virtual machines
  slapd ldap-utils glue-schema # the information system
  busybox-static dropbear-bin syslinux mtools dosfstools cpio # the demonstration guest is built from these
  openssh-client openssl ca-certificates
)
# Real peers that the tests talk to.
PACKAGES_TEST=(voms-clients voms-clients-java voms-dev libssl-dev chromium postgresql curl)

say() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }
die() { printf 'skyfed: %s\n' "$*" >&2; exit 1; }

# Runs a command as root: directly, or by sudo after saying why.
as_root() {
  local why=$1; shift
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    say "as root, $why: $*"
    sudo "$@"
  else
    die "needs root $why; run as root: $*"
  fi
}

# libvirt, run by root, looks for this user before it reads any setting; Debian makes it with the libvirtd daemon, which
# we do not need. An ordinary user's libvirt does not ask for it.
need_libvirt_user() {
  [ "$(id -u)" != 0 ] || getent passwd libvirt-qemu >/dev/null ||
    useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin libvirt-qemu
}

# Installs the Debian packages that are missing. Nothing else in these scripts needs root.
need_debian() {
  local missing=() package
  need_libvirt_user
  for package in "$@"; do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
  done
  [ ${#missing[@]} = 0 ] && return
  [ -e /etc/debian_version ] || die "this machine is not Debian; install by hand what provides: ${missing[*]}"
  say "installing Debian packages: ${missing[*]}"
  # We start our own slapd and PostgreSQL where we need them: the packages shall neither configure nor start theirs.
  case " ${missing[*]} " in *" slapd "*)
    as_root "to keep Debian from starting a slapd of its own" sh -c 'command -v debconf-set-selections >/dev/null &&
      echo "slapd slapd/no_configuration boolean true" | debconf-set-selections' ;;
  esac
  case " ${missing[*]} " in *" postgresql "*)
    as_root "to keep Debian from starting a PostgreSQL of its own" sh -c 'mkdir -p /etc/postgresql-common/createcluster.d &&
      echo "create_main_cluster = false" > /etc/postgresql-common/createcluster.d/skyfed.conf' ;;
  esac
  as_root "to refresh Debian's package lists" apt-get update -qq
  as_root "to install what Skyfed runs on" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >"$(install_log)" 2>&1 ||
    die "apt-get install failed; its log is $(install_log), its end: $(tail -n 5 "$(install_log)")"
}

install_log() { mkdir -p "$ROOT/.cache" && echo "$ROOT/.cache/install.log"; }

# The virtual environment in .venv from a lock file: `need_venv requirements.lock` or `need_venv requirements-dev.lock`.
need_venv() {
  local lock=$1 python stamp
  for python in /usr/bin/python3 python3; do
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break
    python=
  done
  [ -n "$python" ] || die "needs Python 3.11 or newer"
  stamp="$("$python" -V) $(cat "$ROOT/$lock" "$ROOT/pyproject.toml" | sha256sum | cut -c1-16) $lock"
  # What the tests need includes what a federation needs.
  case "$(cat "$ROOT/.venv/skyfed.stamp" 2>/dev/null)" in
    "$stamp" | "${stamp% *} requirements-dev.lock") return ;;
  esac
  if [ "$lock" = requirements.lock ] && grep -q 'requirements-dev.lock$' "$ROOT/.venv/skyfed.stamp" 2>/dev/null; then
    need_venv requirements-dev.lock
    return
  fi
  say "making the virtual environment from $lock"
  rm -f "$ROOT/.venv/skyfed.stamp"
  "$python" -m venv "$ROOT/.venv" || die "cannot make $ROOT/.venv"
  {
    "$ROOT/.venv/bin/python" -m pip install --disable-pip-version-check -q --require-hashes -r "$ROOT/$lock" &&
      "$ROOT/.venv/bin/python" -m pip install --disable-pip-version-check -q --no-deps --no-build-isolation -e "$ROOT"
  } >"$(install_log)" 2>&1 || die "pip failed; its log is $(install_log), its end: $(tail -n 5 "$(install_log)")"
  echo "$stamp" >"$ROOT/.venv/skyfed.stamp"
}
