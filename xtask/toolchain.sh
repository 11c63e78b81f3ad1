#!/bin/sh
# Installs what must be there before xtask can be built: a C linker from Debian, Rust from rustup's own installer.
set -e
cd "$(dirname -- "$0")/.."
missing=""
command -v cc >/dev/null || missing="gcc libc6-dev"
command -v rustup >/dev/null || command -v curl >/dev/null || missing="$missing curl ca-certificates"
if [ -n "$missing" ]; then
    echo "x: installing Debian packages: $missing"
    sudo=""
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || { echo "x: installing packages needs root: run this as root, or install sudo"; exit 125; }
        sudo=sudo
    fi
    $sudo apt-get update -qq
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing
fi
if ! command -v rustup >/dev/null; then
    echo "x: there is no Rust toolchain: running rustup's installer (into ~/.rustup and ~/.cargo)"
    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal --no-modify-path
fi
# Which toolchain, components and targets: rust-toolchain.toml.
if ! cargo --version >/dev/null 2>&1; then
    echo "x: installing the toolchain that rust-toolchain.toml names"
    rustup toolchain install
fi
