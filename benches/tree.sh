# Sourced by the benchmarks: a folder to work in, the driver, and a tree like that of kernel objects.
# Knows nothing of what is measured.

set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
for tool in hyperfine jq "$@"; do
    command -v "$tool" >/dev/null || { echo "$0: $tool is not installed" >&2; exit 3; }
done
cargo build --quiet --release --manifest-path "$here/Cargo.toml" -p mosbuild-cache --example bench_store
bench=${CARGO_TARGET_DIR:-$here/target}/release/examples/bench_store
# On the file system that a store would be on, not on a tmpfs.
dir=$(mktemp -d "${BENCH_DIR:-${TMPDIR:-/var/tmp}}/mosbuild-bench.XXXXXX")
trap 'rm -rf "$dir"' EXIT
trap 'exit 130' INT TERM HUP

# make_tree DIR: 70,000 files in 700 folders, 1 to 16 KiB each, no two alike.
make_tree() {
    python3 - "$1" <<'PY'
import os, random, sys
random.seed(1)
for d in range(700):
    path = f"{sys.argv[1]}/d{d // 50}/e{d}"
    os.makedirs(path)
    for f in range(100):
        with open(f"{path}/{f}.o", "wb") as out:
            out.write(random.randbytes(random.randrange(1024, 16384) if f % 7 else 1024))
PY
}

# ratio LABEL JSON: seconds of the second command over those of the first (ours), by medians.
ratio() {
    jq -r --arg what "$1" '.results | "\($what): \(.[1].median / .[0].median * 100 | round / 100) of the peer'"'"'s speed (\(.[0].median * 1000 | round) ms against \(.[1].median * 1000 | round) ms)"' "$2"
}
