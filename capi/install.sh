#!/usr/bin/env bash
# Builds libfused_loss and installs header, shared and static library and pkg-config file as cargo-c does: capi/install.sh [PREFIX]
# (/usr/local by default). Other arguments go to cargo build, such as --no-default-features.
set -euo pipefail
prefix=$(realpath -m "${1:-/usr/local}")
shift || true
cd "$(dirname "$0")"
cargo build --release -p fused-loss-capi "$@"
target=$(cargo metadata --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
soname=libfused_loss.so.${version%.*} # while the major version is 0, the minor one names the ABI
mkdir -p "$prefix/include" "$prefix/lib/pkgconfig"
install -m 644 include/fused_loss.h "$prefix/include/"
install -m 644 "$target/release/libfused_loss.a" "$prefix/lib/"
install -m 755 "$target/release/libfused_loss.so" "$prefix/lib/libfused_loss.so.$version"
ln -sf "libfused_loss.so.$version" "$prefix/lib/$soname"
ln -sf "$soname" "$prefix/lib/libfused_loss.so"
sed "s|@PREFIX@|$prefix|; s|@VERSION@|$version|" fused_loss.pc.in > "$prefix/lib/pkgconfig/fused_loss.pc"
echo "installed into $prefix: fused_loss.h, libfused_loss.so.$version, libfused_loss.a, fused_loss.pc"
