# Sourced by the scripts beside this folder: what they need of the host, installed where it is missing.
# Debian and Ubuntu only; elsewhere the commands named here have to be there already.

# The oldest toolchain that builds the workspace (Cargo.toml, rust-version).
RUST_MINIMUM=1.95

say() { printf '%s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# Run as root: as we are, or through sudo.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null 2>&1; then
        sudo "$@"
    else
        die "missing: $* needs root; install sudo, or run that command as root and start again"
    fi
}

# need COMMAND=PACKAGE…: install the packages whose command is not there. Sbin folders count.
need() {
    missing=
    for pair in "$@"; do
        (PATH=$PATH:/usr/sbin:/sbin; command -v "${pair%%=*}") >/dev/null 2>&1 || missing="$missing ${pair#*=}"
    done
    [ -n "$missing" ] || return 0
    command -v apt-get >/dev/null 2>&1 || die "missing:$missing (install them with this system's package manager and start again)"
    say "installing:$missing"
    # shellcheck disable=SC2086 # a list of packages
    apt_install $missing
}

apt_install() {
    as_root apt-get update -qq || say "apt-get update failed; trying with the lists that are there"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null ||
        die "could not install: $* (try: apt-get install $*)"
}

# Is there a cargo and a rustc that are new enough?
toolchain_fits() {
    command -v cargo >/dev/null 2>&1 && command -v rustc >/dev/null 2>&1 || return 1
    have=$(rustc --version 2>/dev/null | cut -d' ' -f2) || return 1
    [ "$(printf '%s\n%s\n' "$RUST_MINIMUM" "$have" | sort -V | head -n 1)" = "$RUST_MINIMUM" ]
}

# A Rust toolchain: the one on PATH, rustup's, the distribution's newest, or rustup's installer.
need_rust() {
    [ -d "$HOME/.cargo/bin" ] && PATH=$HOME/.cargo/bin:$PATH
    need cc=gcc ld=binutils
    [ -e /usr/include/stdio.h ] || apt_install libc6-dev
    toolchain_fits && return 0
    if command -v apt-cache >/dev/null 2>&1; then
        as_root apt-get update -qq || true
        # Debian ships newer toolchains under other names for its browsers' sake.
        for suffix in '' -web -mozilla; do
            candidate=$(apt-cache policy "cargo$suffix" | sed -n 's/^ *Candidate: \([0-9.]*\).*/\1/p')
            [ -n "$candidate" ] || continue
            if [ "$(printf '%s\n%s\n' "$RUST_MINIMUM" "$candidate" | sort -V | head -n 1)" = "$RUST_MINIMUM" ]; then
                say "installing: cargo$suffix rustc$suffix"
                apt_install "cargo$suffix" "rustc$suffix"
                toolchain_fits && return 0
            fi
        done
    fi
    need curl=curl
    say "installing: a Rust toolchain with rustup"
    curl -sSf --proto '=https' https://sh.rustup.rs | sh -s -- -y -q --profile minimal -c clippy -c rustfmt ||
        die "no Rust $RUST_MINIMUM or newer to be had: install one (https://rustup.rs) and start again"
    PATH=$HOME/.cargo/bin:$PATH
    toolchain_fits || die "the installed Rust is older than $RUST_MINIMUM: run 'rustup update' and start again"
}

# What running sandboxes needs: QEMU in the version of the distribution, and mke2fs.
need_vmm() {
    need qemu-system-x86_64=qemu-system-x86 mke2fs=e2fsprogs dpkg-deb=dpkg
}

# sshd for the tests' own internet. Debian would have it serve the whole network from now on, which nobody has asked for.
need_sshd() {
    (PATH=$PATH:/usr/sbin:/sbin; command -v sshd) >/dev/null 2>&1 && return 0
    policy=/usr/sbin/policy-rc.d
    if [ -e "$policy" ]; then policy=; else
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null && as_root chmod 0755 "$policy"
    fi
    need sshd=openssh-server
    [ -z "$policy" ] || as_root rm -f "$policy"
    as_root systemctl disable --quiet ssh 2>/dev/null || true
}

# The device that sandboxes with a network need, for everybody, as udev makes it.
need_tun() {
    [ -e /dev/net/tun ] || die "missing: /dev/net/tun (modprobe tun, or let this container have the device)"
    [ -r /dev/net/tun ] && [ -w /dev/net/tun ] || as_root chmod 0666 /dev/net/tun
}

# debian_archive ARCHIVE: a Debian root file system as a `docker save` archive, made from Debian packages.
debian_archive() {
    need mmdebstrap=mmdebstrap
    dir=$(mktemp -d)
    # shellcheck disable=SC2064 # the folder's name as it is now
    trap "rm -rf '$dir'" EXIT
    as_root mmdebstrap --quiet --variant=minbase "$(. /etc/os-release && echo "$VERSION_CODENAME")" "$dir/layer.tar" ||
        die "mmdebstrap could not make a root file system (its message is above)"
    layer=$(sha256sum <"$dir/layer.tar" | cut -d' ' -f1)
    printf '{"architecture":"amd64","os":"linux","config":{"Cmd":["bash"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
        "$layer" >"$dir/config.json"
    printf '[{"Config":"config.json","RepoTags":null,"Layers":["layer.tar"]}]' >"$dir/manifest.json"
    tar -C "$dir" -cf "$1" manifest.json config.json layer.tar
    as_root rm -rf "$dir"
    trap - EXIT
}
