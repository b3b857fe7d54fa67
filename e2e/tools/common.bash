# Sourced by e2e/test, e2e/demo, .ci/run and e2e/tools/build: how they speak, and what they need of the machine.

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/etcd-snapshot-operator
# Where the installers of Rust and Go put them, for a shell that was not told.
PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin:/usr/local/go/bin

say() { printf '%s\n' "$*" >&2; }
die() {
  say "$0: $*"
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
  local said
  said=$(apt-get update 2>&1) || die "$command is missing, and apt-get update failed: ${said##*$'\n'}"
  said=$(DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" 2>&1) ||
    die "$command is missing, and apt-get could not install $*: ${said##*$'\n'}"
}

# What everything here is built and run with.
need_basics() {
  [ "$(uname -s)" = Linux ] || die "this runs on Linux only, and here is $(uname -s)"
  command -v cargo > /dev/null || die "cargo is missing: please install Rust 1.95 or newer"
  command -v go > /dev/null || die "go is missing: please install Go 1.26 or newer"
  command -v python3 > /dev/null || need python3 python3 python3-pip
  need cc gcc libc6-dev
  need protoc protobuf-compiler libprotobuf-dev # the gRPC client of etcd is generated from its .proto files
  need setpriv util-linux
  need flock util-linux
}

# step NAME COMMAND...: say it, run it, and remember how long it took for `steps`.
step_names=() step_seconds=()
step() {
  local name=$1 begun=$SECONDS status=0
  shift
  say "== $name"
  "$@" || status=$?
  [ $status = 0 ] || name+=" (failed)"
  step_names+=("$name")
  step_seconds+=($((SECONDS - begun)))
  return $status
}
steps() {
  local i
  [ ${#step_names[@]} = 0 ] || say "== seconds"
  for i in "${!step_names[@]}"; do printf '%6d  %s\n' "${step_seconds[$i]}" "${step_names[$i]}" >&2; done
}
