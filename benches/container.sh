#!/usr/bin/env bash
# What a step in a container costs over the daemon's own start of one: `docker run` and a step that does nothing, whole
# processes side by side in one run, on a dockerd of its own. Goal: under 400 ms more. Needs root, dockerd and runc.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup bench
mosbuild=$(realpath "${MOSBUILD_BIN:-${CARGO_TARGET_DIR:-target}/release/mosbuild}")
dir=$(mktemp -d "${BENCH_DIR:-${TMPDIR:-/var/tmp}}/mosbuild-bench.XXXXXX")
daemons=$dir/daemons
mkdir "$daemons"
. scripts/daemons
trap 'stop_daemons; rm -rf "$dir"' EXIT
start_docker

scripts/host-image "$dir/image.tar"
docker=$(command -v docker)
"$docker" load --quiet -i "$dir/image.tar"
cat > "$dir/mosbuild.yaml" << END
mosbuild: 1
project: bench
container: { archive: image.tar }
targets:
  nothing: { rule: command, executor: container, run: ': > "\$OUT/o"', outputs: [o] }
END
export MOSBUILD_CACHE_DIR=$dir/store
hyperfine -N --style none --warmup 2 --runs "${RUNS:-10}" --export-json "$dir/times.json" \
    "$docker run --rm --network none mosbuild-test:latest sh -eu -c :" \
    "$mosbuild -C $dir build -q --force nothing nothing" > /dev/null 2>&1
python3 - "$dir/times.json" << 'PYTHON'
import json, sys
run, step = (result["median"] * 1000 for result in json.load(open(sys.argv[1]))["results"])
print(f"docker run: {run:.0f} ms; mosbuild with one step that does nothing: {step:.0f} ms; {step - run:+.0f} ms (goal: under 400)")
sys.exit(step - run > 400)
PYTHON
