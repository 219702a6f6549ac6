#!/bin/sh
# Hashing against b3sum: one file of 1 GiB, and a tree of 70,000 files. Goal: at least 0.9 of its speed.
. "$(dirname "$0")/tree.sh" b3sum python3

head -c 1G /dev/urandom >"$dir/big"
make_tree "$dir/tree"
find "$dir/tree" -type f | sort >"$dir/list"

[ "$("$bench" hash-file "$dir/big")" = "$(b3sum --no-names "$dir/big")" ] || { echo "the digests differ" >&2; exit 1; }
hyperfine --style none --warmup 1 --runs "${RUNS:-5}" --export-json "$dir/file.json" \
    "$bench hash-file $dir/big" "b3sum $dir/big" >/dev/null
ratio "one file of 1 GiB" "$dir/file.json"
hyperfine --style none --warmup 1 --runs "${RUNS:-5}" --export-json "$dir/tree.json" \
    "$bench hash-tree $dir/tree" "xargs -a $dir/list b3sum" >/dev/null
ratio "70,000 files" "$dir/tree.json"
