#!/usr/bin/env bash
# A graph of 10,000 commands in ten layers, against ninja on the same graph; and what the sandbox costs a command.
# Goals: nothing to do, not slower than ninja; first build with `executor: host` within 1.5 times ninja's; sandbox at
# most 4 ms a command at -j1; peak memory below 150 MB.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup bench
[ -n "${MOSBUILD_BIN:-}" ] || cargo build --quiet --release --locked -p mosbuild
mosbuild=$(realpath "${MOSBUILD_BIN:-${CARGO_TARGET_DIR:-target}/release/mosbuild}")
targets=${TARGETS:-10000}
few=${FEW:-1000}
jobs=$(nproc)

# On the file system that a store would be on, not on a tmpfs.
dir=$(mktemp -d "${BENCH_DIR:-${TMPDIR:-/var/tmp}}/mosbuild-bench.XXXXXX")
trap 'rm -rf "$dir"' EXIT

timed() { # FILE COMMAND…: "seconds kilobytes" into FILE
    local to=$1
    shift
    command time -q -f '%e %M' -o "$to" "$@" > "$dir/output" 2>&1 || {
        tail -n 20 "$dir/output" >&2
        return 1
    }
}
of() { # NUMBER FILE
    cut -d' ' -f"$1" "$2"
}
calc() { # EXPRESSION FORMAT
    awk "BEGIN { printf \"$2\", $1 }"
}

python3 benches/gen_graph.py "$dir/big" --targets "$targets"
timed "$dir/ninja" ninja -C "$dir/big/ninja" -j "$jobs"
timed "$dir/host" "$mosbuild" -C "$dir/big/mosbuild" build -j "$jobs" --cache-dir "$dir/store"
tail -n1 "$dir/output"
echo "first build of $targets commands by host, -j$jobs: $(of 1 "$dir/host") s, ninja $(of 1 "$dir/ninja") s," \
    "ratio $(calc "$(of 1 "$dir/host") / $(of 1 "$dir/ninja")" %.2f) (goal 1.5)"
echo "peak memory: $(calc "$(of 2 "$dir/host") / 1000" %.0f) MB (goal 150), ninja $(calc "$(of 2 "$dir/ninja") / 1000" %.0f) MB"

hyperfine -N --style none --warmup 3 --runs "${RUNS:-20}" --export-json "$dir/null.json" \
    "ninja -C $dir/big/ninja -j $jobs" \
    "$mosbuild -C $dir/big/mosbuild build -j $jobs --cache-dir $dir/store" > /dev/null 2>&1
"$mosbuild" -C "$dir/big/mosbuild" build --cache-dir "$dir/store" 2>&1 | tail -n1
python3 - "$dir/null.json" << 'PYTHON'
import json, sys
ninja, ours = (result["median"] * 1000 for result in json.load(open(sys.argv[1]))["results"])
print(f"nothing to do: {ours:.1f} ms, ninja {ninja:.1f} ms, ratio {ours / ninja:.2f} (goal 1.0)")
PYTHON

for executor in host sandbox; do
    python3 benches/gen_graph.py "$dir/$executor-few" --targets "$few" --executor $executor
    timed "$dir/$executor-few.time" "$mosbuild" -C "$dir/$executor-few/mosbuild" build -j1 --cache-dir "$dir/store-$executor"
done
host=$(of 1 "$dir/host-few.time")
sandbox=$(of 1 "$dir/sandbox-few.time")
echo "$few commands at -j1: sandbox $sandbox s, host $host s," \
    "$(calc "($sandbox - $host) * 1000 / $few" %.2f) ms a command for the sandbox (goal 4)"
