#!/usr/bin/env bash
# How fast a tree is packed as an flist: the step alone, against `tar | zstd`, which compresses about as fast and neither seals, names
# nor splits. BENCH_TREE names a folder; else a part of the kernel's source is taken.
. "$(dirname "$0")/tree.sh" zstd tar
cargo build --quiet --release --manifest-path "$here/Cargo.toml" -p mosbuild
mosbuild=${CARGO_TARGET_DIR:-$here/target}/release/mosbuild
if [ -z "${BENCH_TREE:-}" ]; then
    source=$(compgen -G '/usr/src/linux-source-*.tar.xz' | tail -n1) || { echo "$0: name a folder with BENCH_TREE" >&2; exit 3; }
    mkdir "$dir/source"
    tar -C "$dir/source" -xf "$source" --wildcards '*/drivers/gpu/*' '*/drivers/net/*'
    BENCH_TREE=$dir/source
fi
mkdir "$dir/work"
cat > "$dir/work/mosbuild.yaml" << END
mosbuild: 1
targets:
  tree: { rule: files, install: [{ from: { path: "$(realpath "$BENCH_TREE")" }, to: / }] }
  packed: { rule: flist, root: tree, store: "dir://blocks" }
END
build="$mosbuild -C $dir/work build -q --cache-dir $dir/store"
$build tree packed
echo "$(find "$BENCH_TREE" -type f | wc -l) files, $(du -sh --apparent-size "$BENCH_TREE" | cut -f1)"
# Blocks are in the store already: sealing and naming is what is measured, and looking whether each is there.
hyperfine --warmup 1 --runs 5 --export-json "$dir/flist.json" "$build --force packed packed" \
    "tar -C $BENCH_TREE -cf - . | zstd -1 -T0 -q > $dir/peer.tar.zst" > /dev/null
ratio "packing a tree as an flist, against tar | zstd -1" "$dir/flist.json"
