# Sourced by what takes packages from Debian for the lab. Expects `lab`, the folder of what is kept.

keyring=/usr/share/keyrings/debian-archive-keyring.gpg

# apt with sources, lists and packages of its own, so that those of the machine stay as they are.
# $1: suite; the rest is the command.
private_apt() {
    local root=$lab/apt/$1 command=$2
    shift 2
    "$command" -o Dir::Etc::sourcelist="$root/sources.list" -o Dir::Etc::sourceparts=/dev/null \
        -o Dir::Etc::preferencesparts=/dev/null -o Dir::State="$root/state" -o Dir::State::status="$root/status" \
        -o Dir::Cache="$root/cache" -o APT::Sandbox::User=root -o Acquire::Languages=none \
        -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false \
        -o APT::Update::Post-Invoke-Success::=true -o Acquire::Retries=2 "$@"
}

mirror() {
    local found
    found=$(grep -rhoE 'https?://[^ ]+/debian/?( |$)' /etc/apt/sources.list /etc/apt/sources.list.d 2>/dev/null | head -n 1)
    found=${OUBLIETTE_LAB_MIRROR:-$found}
    echo "${found:-http://deb.debian.org/debian}"
}

# Brings the lists of a suite up to date.
private_update() {
    local root=$lab/apt/$1
    mkdir -p "$root/state/lists/partial" "$root/cache/archives/partial" "$lab/kernels"
    touch "$root/status"
    echo "deb [arch=amd64 signed-by=$keyring] $(mirror) $1 main" >"$root/sources.list"
    run private_apt "$1" apt-get -qq update
}

# What a package depends on that is named like this, the first of it: behind the name of a collection is that of the
# newest version. $1: suite, $2: package, $3: how the names begin.
newest_package() {
    private_apt "$1" apt-cache depends "$2" | sed -n "s/^ *Depends: \\($3[0-9].*\\)\$/\\1/p" | head -n 1
}
