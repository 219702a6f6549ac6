#!/usr/bin/env bash
# The relink of the quickstart's kernel against make's, whole processes side by side in one run: the same archive, the
# same bytes. Then a slot, and a service file in an initramfs of segments. Run scripts/quickstart first.
#
#   benches/relink.sh               # the kernel as it is: gzip
#   benches/relink.sh KERNEL_XZ     # with another compression, which compiles the kernel anew
#
# Goals: 0.35 of make's time with XZ, 0.2 with GZIP, or ZSTD at level 3; a slot with ZSTD at level 3 under 1 s; one file
# changed at most a tenth of compressing the whole.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup bench
mosbuild=$(realpath "${MOSBUILD_BIN:-${CARGO_TARGET_DIR:-target}/release/mosbuild}")
. scripts/kernel-source
compression=${1:-KERNEL_GZIP}

dir=$(mktemp -d "${BENCH_DIR:-${TMPDIR:-/var/tmp}}/mosbuild-bench.XXXXXX")
trap 'rm -rf "$dir"' EXIT
at=$dir/quickstart
mkdir "$at"
(cd examples/quickstart && cp -r config mosbuild.* root "$at")
if [ "$compression" != KERNEL_GZIP ]; then
    sed -i "s/^CONFIG_KERNEL_GZIP=y/CONFIG_$compression=y/" "$at/config/kernel.fragment"
fi
case $compression in
KERNEL_XZ) tool=xz ;;
KERNEL_ZSTD) tool=zstd ;;
KERNEL_LZ4) tool=lz4 ;;
*) tool= ;;
esac
[ -z "$tool" ] || sed -i "s/^    localversion: -quickstart/&\n    tools: [$tool]/" "$at/mosbuild.yaml"
fast=1
[ "$tool" != zstd ] || fast=3
sed -i "/^dist:/i\\
  by-make: { rule: kernel, linux: linux, initramfs: initramfs, make: true }\\
  fast: { rule: kernel, linux: linux, initramfs: initramfs, level: $fast }\\
  slot: { rule: kernel, linux: linux, initramfs: initramfs, slot: 64MiB, level: $fast }\\
  segments: { rule: cpio, root: rootfs, compress: { segments: true } }\\
" "$at/mosbuild.yaml"
build() { "$mosbuild" -C "$at" "${SET[@]}" build -q "$@"; }
build kernel by-make fast slot segments
cmp "$at/dist/by-make" "$at/dist/vmlinuz.efi"
echo "the same bytes as make's: $(stat -c %s "$at/dist/by-make")"

# --force runs all steps of a target again: the relink with its checks, and of a slot the link too, so that is edited.
command="$mosbuild -C $at ${SET[*]-} build -q --force"
hyperfine -N --style none --warmup 1 --runs "${RUNS:-5}" --export-json "$dir/relink.json" \
    "$command by-make by-make" "$command kernel kernel" "$command fast fast" > /dev/null 2>&1
python3 - "$dir/relink.json" "$compression" "$fast" << 'PYTHON'
import json, sys
make, *ours = [(r["median"], r["min"]) for r in json.load(open(sys.argv[1]))["results"]]
print(f"{sys.argv[2]}: make {make[0]:.2f} s, least {make[1]:.2f} s")
for name, (median, least) in zip(("relink", f"relink, level {sys.argv[3]}"), ours):
    print(f"{sys.argv[2]}: {name} {median:.2f} s, {median / make[0]:.2f} of make's; least {least:.2f} s, {least / make[1]:.2f}")
PYTHON

millis() { python3 scripts/events.py millis "$dir/events" "$1"; }
for n in 1 2 3; do
    echo "# $n $RANDOM" >> "$at/root/etc/zinit/services/ready.toml"
    build slot --events "$dir/events"
    echo "a service file changed: slot, level $fast: $(millis slot:relink) ms for the relink; the whole archive: $(millis initramfs:pack) ms"
    build segments --events "$dir/events"
    echo "a service file changed: segments: $(millis segments:pack) ms"
done
echo "bytes of the archive: $(stat -c %s "$at/dist/initramfs.cpio.xz"), in segments $(stat -c %s "$at/dist/segments")"
