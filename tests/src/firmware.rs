//! A small linux-firmware with a bit of everything, modules that ask for it, and what a build makes of both.
//! Knows the format of WHENCE only as far as it writes one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::archive::{Entry, members, text};
use crate::modules::ModuleDir;
use crate::{Output, Space, blobs, need};

/// A workspace in which `firmware` takes what `modules` asks for out of the folder fw, as dist/fw.tar.
pub const YAML: &str = r#"targets:
  kernel: { rule: files, install: [{ from: kernel/, to: /lib/modules/1.0-test }] }
  modules: { rule: modules, from: kernel, extra: [card, chain, dir, glob, lost, plain] }
  firmware: { rule: firmware, for: modules, source: { path: fw } }
dist: { fw.tar: firmware }
"#;

/// Its list.
pub const WHENCE: &str = r#"    * WHENCE *

A head with File names in it.

--------------------------------------------------------------------------

Driver: card -- a card

File: card/a.bin
Version: 1
File: "card/two words.txt"
File: card/more\ words.txt
RawFile: card/raw.bin
File: card/unused.bin
Link: card.bin -> card/a.bin
Link: card/raw-link.bin -> raw.bin

Licence: Redistributable. See LICENCE.card and card/NOTICE.txt for details

--------------------------------------------------------------------------

Driver: chain

File: new/place/chain-3.bin
Link: old/chain.bin -> ../middle/chain.bin
Link: middle -> new/place
Link: new/place/chain.bin -> chain-3.bin

Licence: Free: the text of this licence is here alone.

--------------------------------------------------------------------------

Driver: dir, glob

File: chips/x1/boot.bin
File: chips/x1/main.bin
File: chips/x2/boot.bin
Link: chips/x3 -> x1
File: chips/board.A.txt
File: chips/board.B.txt
File: gone/missing.bin
File: gone/lost-5.bin

Licence: Unknown
"#;

/// Files of the small linux-firmware, beside WHENCE.
pub const FILES: [(&str, &str); 15] = [
    ("card/a.bin", "card a"),
    ("card/two words.txt", "two words"),
    ("card/more words.txt", "more words"),
    ("card/raw.bin", "raw"),
    ("card/unused.bin", "nobody asks for this"),
    ("new/place/chain-3.bin", "chain 3"),
    ("chips/x1/boot.bin", "x1 boot"),
    ("chips/x1/main.bin", "x1 main"),
    ("chips/x2/boot.bin", "x2 boot"),
    ("chips/board.A.txt", "board A"),
    ("chips/board.B.txt", "board B"),
    ("gone/lost-5.bin", "lost 5"),
    ("secret.bin", "WHENCE does not name this"),
    ("LICENSES/LICENCE.card", "licence of the card"),
    ("card/NOTICE.txt", "notice of the card"),
];

/// The small linux-firmware in a folder, and modules that ask for it.
pub fn fill(space: &Space) {
    source(space, "fw");
    let modules = ModuleDir::new(space, "kernel");
    modules
        .module(
            "kernel/card.ko",
            &["card.bin", "card/two words.txt", "card/more words.txt", "card/raw-link.bin"],
        )
        .module("kernel/chain.ko.xz", &["old/chain.bin"])
        .module("kernel/dir.ko.gz", &["chips/x3/boot.bin"])
        .module("kernel/glob.ko.zst", &["chips/board.*.txt", "chips/none.*.txt"])
        .module("kernel/plain.ko", &[])
        .module(
            "kernel/lost.ko",
            &["gone/missing.bin", "gone/lost-7.bin", "lost/chain-3.bin", "secret.bin", "vendor/alone.xyz"],
        )
        .module("kernel/not-asked-for.ko", &["card/unused.bin"])
        .builtin(&[("inside", &["chips/x2/boot.bin"]), ("inner", &[])]);
}

/// The small linux-firmware alone, in this folder.
pub fn source(space: &Space, dir: &str) {
    space.write(&format!("{dir}/WHENCE"), WHENCE);
    for (path, text) in FILES {
        space.write(&format!("{dir}/{path}"), text);
    }
}

/// Links and contents of the files of a tar.
pub fn tree(archive: &Path) -> BTreeMap<String, String> {
    let all = members(archive).into_iter().filter(|(_, entry)| !entry.mode.starts_with('d'));
    let shown = |(path, entry): (String, Entry)| {
        let what = match entry.link {
            Some(link) => format!("-> {link}"),
            None => text(archive, &path),
        };
        (path, what)
    };
    all.map(shown).collect()
}

/// The same below a folder.
pub fn below(tree: &BTreeMap<String, String>, folder: &str) -> Vec<(String, String)> {
    let inside = tree.iter().filter_map(|(path, what)| Some((path.strip_prefix(folder)?, what)));
    inside.map(|(path, what)| (path.to_owned(), what.clone())).collect()
}

/// As [`below`] gives them.
pub fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
}

/// Notes of the target's steps.
pub fn notes(space: &Space, target: &str) -> Vec<String> {
    let shown = space.json(&["show", target, "--json"]);
    let notes = shown["steps"].as_array().unwrap().iter().filter_map(|step| step["notes"].as_array());
    notes.flatten().map(|note| note.as_str().unwrap().to_owned()).collect()
}

/// Warnings of a build.
pub fn warnings(output: &Output) -> Vec<&str> {
    output.named("warning", "message")
}

/// What is in lib/firmware for these modules.
pub const TAKEN: [(&str, &str); 15] = [
    ("card.bin", "-> card/a.bin"),
    ("card/a.bin", "card a"),
    ("card/more words.txt", "more words"),
    ("card/raw-link.bin", "-> raw.bin"),
    ("card/raw.bin", "raw"),
    ("card/two words.txt", "two words"),
    ("chips/board.A.txt", "board A"),
    ("chips/board.B.txt", "board B"),
    ("chips/x1/boot.bin", "x1 boot"),
    ("chips/x2/boot.bin", "x2 boot"),
    ("chips/x3", "-> x1"),
    ("middle", "-> new/place"),
    ("new/place/chain-3.bin", "chain 3"),
    ("new/place/chain.bin", "-> chain-3.bin"),
    ("old/chain.bin", "-> ../middle/chain.bin"),
];

/// Whether the store has a blob of this content.
pub fn stored(space: &Space, content: &str) -> bool {
    blobs(space.store())
        .iter()
        .any(|(path, _)| std::fs::read(path).is_ok_and(|bytes| bytes == content.as_bytes()))
}

/// Packs a folder of the workspace; `names` in this order.
pub fn tar(space: &Space, archive: &str, dir: &Path, names: &[&str]) -> PathBuf {
    need("tar", "tar");
    let path = space.path(archive);
    let status = Command::new("tar").arg("-caf").arg(&path).arg("-C").arg(dir).args(names).status().unwrap();
    assert!(status.success());
    path
}
