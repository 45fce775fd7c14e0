# Sourced by every script in ci/: goes to the root of the crate and defines what they share.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Where cargo builds. A script whose compiler flags differ from the others builds in a folder of its own there,
# so that none makes another build everything anew.
target=${CARGO_TARGET_DIR:-target}
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-never}

# The compiler for what stable does not do. `rustup` leaves it alone if it is there.
nightly=${OUBLIETTE_NIGHTLY:-nightly}

# Prints a command, then runs it.
run() {
    echo "+ $*"
    "$@"
}

# Prints what is skipped and why, in a line that .ci/run counts.
skip() {
    echo "SKIPPED: $*"
    exit "${SKIPPED_STATUS:-0}"
}

# The same for what goes over a network, which may fail for a moment: three times.
run_over_network() {
    run "$@" && return
    sleep 5
    run "$@" && return
    sleep 20
    run "$@"
}

# Installs Debian packages unless the command in the first argument is there.
need() {
    local command=$1
    shift
    command -v "$command" >/dev/null || install_packages "$@"
}

# Installs Debian packages.
install_packages() {
    if [ ! -e /var/cache/apt/pkgcache.bin ] || [ -z "$(find /var/lib/apt/lists -name '*Packages*' -print -quit 2>/dev/null)" ]; then
        run_over_network apt-get update -q
    fi
    run_over_network env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@"
}

# Adds a component of the compiler for what stable does not do, where rustup has it to give.
add_component() {
    run_over_network rustup component add --toolchain "$nightly" "$1"
}

has_nightly() {
    cargo "+$nightly" --version >/dev/null 2>&1
}
