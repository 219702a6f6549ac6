#!/usr/bin/env bash
# The quickstart once it is built: nothing changed, `why kernel`, one service file changed.
# Goals: 50 ms, 50 ms, and 300 ms of mosbuild's own beside make and xz. Run scripts/quickstart first.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup bench
mosbuild=$(realpath "${MOSBUILD_BIN:-${CARGO_TARGET_DIR:-target}/release/mosbuild}")
. scripts/kernel-source

dir=$(mktemp -d "${BENCH_DIR:-${TMPDIR:-/var/tmp}}/mosbuild-bench.XXXXXX")
trap 'rm -rf "$dir"' EXIT
at=$dir/quickstart
mkdir "$at"
(cd examples/quickstart && cp -r config mosbuild.* root "$at")
"$mosbuild" -C "$at" "${SET[@]}" build -q

hyperfine -N --style none --warmup 3 --runs "${RUNS:-50}" --ignore-failure --export-json "$dir/null.json" \
    "$mosbuild -C $at ${SET[*]-} build" "$mosbuild -C $at ${SET[*]-} why kernel" > /dev/null 2>&1
python3 - "$dir/null.json" << 'PYTHON'
import json, sys
for what, result in zip(("nothing changed", "why kernel"), json.load(open(sys.argv[1]))["results"]):
    print(f"{what}: median {result['median'] * 1000:.1f} ms, longest {result['max'] * 1000:.1f} ms (goal 50)")
PYTHON

for n in 1 2 3; do
    echo "# $n $RANDOM" >> "$at/root/etc/zinit/services/ready.toml"
    start=$(date +%s%N)
    "$mosbuild" -C "$at" "${SET[@]}" build kernel -q --events "$dir/events" 2> /dev/null
    wall=$((($(date +%s%N) - start) / 1000000))
    relink=$(python3 scripts/events.py millis "$dir/events" kernel:relink)
    pack=$(python3 scripts/events.py millis "$dir/events" initramfs:pack)
    echo "a service file changed: $wall ms, relink $relink ms, cpio $pack ms; all else $((wall - relink - pack)) ms (goal 300)"
done
