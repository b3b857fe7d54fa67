# Sourced by e2e/test, e2e/demo, .ci/run and e2e/tools/build: how they speak, and what they need of the machine.

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/etcd-snapshot-operator

say() { printf '%s\n' "$*" >&2; }
die() {
  say "$(basename "$0"): $*"
  exit 1
}

# need COMMAND PACKAGE...: have COMMAND, from these Debian packages where it is missing and we may install them.
need() {
  local command=$1
  shift
  command -v "$command" > /dev/null && return
  command -v apt-get > /dev/null || die "$command is missing, and there is no apt-get to install it with: please install $*"
  [ "$(id -u)" = 0 ] || die "$command is missing, and only root may install it: apt-get install $*"
  say "installing $* with apt-get"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq > /dev/null || die "apt-get update failed, and $command is missing"
  apt-get install -y -qq --no-install-recommends "$@" > /dev/null || die "apt-get could not install $*"
}

# What every recipe builds with.
need_compilers() {
  [ "$(uname -s)" = Linux ] || die "the operator and its tests run on Linux only, this is $(uname -s)"
  command -v cargo > /dev/null || die "cargo is missing: install Rust 1.95 or newer"
  command -v go > /dev/null || die "go is missing: install Go 1.26 or newer"
  need cc gcc libc6-dev
}

# step NAME COMMAND...: run it, and remember how long it took for `steps`.
declare -a step_names=() step_seconds=()
step() {
  local name=$1 begun=$SECONDS
  shift
  say "== $name"
  "$@"
  step_names+=("$name")
  step_seconds+=($((SECONDS - begun)))
}
steps() {
  local i
  say "== seconds"
  for i in "${!step_names[@]}"; do printf '%6d  %s\n' "${step_seconds[$i]}" "${step_names[$i]}" >&2; done
}
