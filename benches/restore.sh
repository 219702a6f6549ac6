#!/bin/sh
# Restoring a tree of 70,000 files against `cp -a --reflink=auto` of the same tree. Goal: not slower.
# Each run is a new process, which verifies every blob it uses.
. "$(dirname "$0")/tree.sh" cp python3

make_tree "$dir/tree"
tree=$("$bench" capture "$dir/store" "$dir/tree")
for mode in private shared; do
    "$bench" restore "$dir/store" "$tree" "$dir/first-$mode" "$mode"
    diff -r "$dir/tree" "$dir/first-$mode" >/dev/null || { echo "the copy differs" >&2; exit 1; }
    rm -rf "$dir/first-$mode"
    hyperfine --style none --warmup 1 --runs "${RUNS:-5}" --export-json "$dir/$mode.json" \
        --prepare "rm -rf $dir/to" "$bench restore $dir/store $tree $dir/to $mode" \
        --prepare "rm -rf $dir/to" "cp -a --reflink=auto $dir/tree $dir/to" >/dev/null
    ratio "restored ($mode)" "$dir/$mode.json"
done
rm -rf "$dir/to"
"$bench" unpacked "$dir/store" "$tree" >/dev/null
hyperfine --style none --warmup 1 --runs "${RUNS:-5}" --export-json "$dir/unpacked.json" \
    "$bench unpacked $dir/store $tree" \
    --prepare "rm -rf $dir/to" "cp -a --reflink=auto $dir/tree $dir/to" >/dev/null
ratio "used again unpacked" "$dir/unpacked.json"
