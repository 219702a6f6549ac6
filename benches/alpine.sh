#!/bin/sh
# Some 50 packages, locked and downloaded, installed into a miniroot by mosbuild, against the miniroot's own apk doing the
# same from a folder. Goal: no more than 1.2 times as long, and 300 ms. Needs ../shared; runs as root or not.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
for tool in hyperfine jq python3 unshare; do
    command -v "$tool" >/dev/null || { echo "$0: $tool is not installed" >&2; exit 3; }
done
[ -d "$here/../shared/fixtures" ] || { echo "did not run: the genuine packages of ../shared are not there"; exit 0; }
cargo build --quiet --release --manifest-path "$here/Cargo.toml" -p mosbuild
mosbuild=${CARGO_TARGET_DIR:-$here/target}/release/mosbuild
dir=$(mktemp -d "${BENCH_DIR:-${TMPDIR:-/var/tmp}}/mosbuild-bench.XXXXXX")
trap 'chmod -R u+w "$dir"; rm -rf "$dir"' EXIT
trap 'exit 130' INT TERM HUP

"$here/scripts/alpine-mirror" "$dir/mirror" --from "$here/../shared/fixtures" >/dev/null
branch=$(basename "$dir"/mirror/alpine/v*)
list="chrony dhcpcd doas dosfstools e2fsprogs eudev grep jq lsblk mount openssh partx pciutils sfdisk zstd"
export MOSBUILD_CACHE_DIR="$dir/store"
mkdir -p "$dir/work/keys"
cp -L "$dir"/mirror/keys/* "$dir/work/keys"
cat > "$dir/work/mosbuild.yaml" <<END
mosbuild: 1
project: bench
mirrors:
  - { from: "https://dl-cdn.alpinelinux.org/alpine/", to: ["file://$dir/mirror/alpine/"] }
targets:
  miniroot: { rule: miniroot, release: "${branch#v}", arch: x86_64 }
  packages:
    rule: packages
    base: miniroot
    packages: [$(echo "$list" | tr ' ' ',')]
    keys: [$(cd "$dir/work" && echo keys/*)]
END
"$mosbuild" -C "$dir/work" -q build packages
count=$(grep -c 'identity = ' "$dir/work/mosbuild.lock")

# The real one: the packages in a folder below the root, the root made anew before each run.
mkdir "$dir/empty"
tar -C "$dir/empty" --no-same-owner -xpf "$dir/mirror/alpine/$branch/releases/x86_64/"*.tar.gz
cp "$dir"/work/keys/* "$dir/empty/etc/apk/keys"
for repository in main community; do
    mkdir -p "$dir/empty/mnt/$repository"
    cp -L -r "$dir/mirror/alpine/$branch/$repository/x86_64" "$dir/empty/mnt/$repository"
done
cat > "$dir/real" <<END
exec unshare -r -m --fork --pid sh -ec '
    mount --rbind "$dir/root" "$dir/root"
    mount --rbind /dev "$dir/root/dev"
    mount -t proc proc "$dir/root/proc"
    exec chroot "$dir/root" /sbin/apk add --no-network --no-cache --no-progress --repositories-file /dev/null \
        -X /mnt/main -X /mnt/community $list'
END
hyperfine --style none --warmup 1 --runs "${RUNS:-7}" --export-json "$dir/times.json" \
    --prepare true "$mosbuild -C $dir/work -q build packages --force packages --locked --offline" \
    --prepare "rm -rf $dir/root; cp -a $dir/empty $dir/root" "sh $dir/real" >/dev/null
jq -r --arg count "$count" '.results | map(.median * 1000 | round) | "\($count) packages: \(.[0]) ms, the real apk \(.[1]) ms, allowed \(.[1] * 1.2 + 300 | round) ms"' "$dir/times.json"
