//! Flists: the one that rfs made, ours read back, by Python's SQLite too, and those that are damaged or made to harm.
//! The command that makes them is tested in tests/.

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::{fixtures, tool};
use mosbuild_formats::flist::{
    self, BLOCK_SIZE, BlockRef, Entry, Error, Flist, Kind, Limits, Route, block, dir_path, hex, read, write,
};
use proptest::prelude::*;
use rusqlite::Connection;

const MTIME: i64 = 1_735_689_600;

fn entry(path: &str, mode: u32, kind: Kind) -> Entry {
    Entry { path: path.into(), mode, uid: 0, gid: 0, mtime: MTIME, kind }
}

fn file(content: &[u8]) -> Kind {
    let blocks = content.chunks(BLOCK_SIZE).map(|chunk| block::seal(chunk).unwrap().block).collect();
    Kind::File { size: content.len() as u64, blocks }
}

fn sample() -> Flist {
    let mut entries = vec![
        entry(".", 0o755, Kind::Dir),
        Entry { uid: 3, gid: 42, ..entry("big", 0o4755, file(&vec![7; 3 * BLOCK_SIZE])) },
        entry("dev", 0o755, Kind::Dir),
        entry("dev/console", 0o600, Kind::Char { major: 5, minor: 1 }),
        entry("dev/nvme", 0o660, Kind::Block { major: 259, minor: 0x12345 }),
        entry("empty", 0o644, file(b"")),
        entry("link", 0o777, Kind::Symlink { target: b"\xff/../etc".to_vec() }),
        entry("lib", 0o1755, Kind::Dir),
        entry("pipe", 0o600, Kind::Fifo),
    ];
    entries[1..].sort_by(|a, b| a.path.cmp(&b.path));
    let routes = vec![Route { start: 0, end: 255, url: "dir:///srv/store".into() }];
    Flist { entries, routes, tags: vec![("version".into(), "1".into())] }
}

/// What MANIFEST.md of the fixtures tells of its sample: a `big` of 1 200 000 bytes, a module, an empty file and folder, a file of
/// 0:42, a symlink; a store beside it.
#[test]
fn the_sample_of_rfs_is_read_whole() {
    let Some(at) = fixtures("flist") else { return };
    let found = read(&std::fs::read(at.join("sample.fl")).unwrap(), &Limits::default()).unwrap();
    let of = |path: &str| found.entries.iter().find(|e| e.path == path).unwrap_or_else(|| panic!("{path}"));
    let content = |path: &str| {
        let Kind::File { size, blocks } = &of(path).kind else { panic!("{path} is no file") };
        let stored = |b: &BlockRef| std::fs::read(at.join("store").join(dir_path(&b.id))).unwrap();
        let plain: Vec<u8> = blocks.iter().flat_map(|b| block::open(b, stored(b)).unwrap()).collect();
        assert_eq!(plain.len() as u64, *size, "{path}");
        // rfs cuts, packs, seals and names as we do.
        assert_eq!(file(&plain), of(path).kind, "{path}");
        for (chunk, block) in plain.chunks(BLOCK_SIZE).zip(blocks) {
            assert_eq!(block::seal(chunk).unwrap().bytes, stored(block), "{path}");
        }
        plain
    };
    assert_eq!(found.entries.len(), 14);
    assert_eq!(content("big").len(), 1_200_000);
    assert_eq!(content("empty/zero"), b"");
    assert_eq!(content("etc/motd").len(), 6);
    assert_eq!(of("etc/link").kind, Kind::Symlink { target: b"motd".to_vec() });
    let motd = of("etc/motd");
    assert_eq!((motd.mode, motd.uid, motd.gid), (0o600, 0, 42), "rfs itself would read 0:0");
    let module = content("lib/modules/6.18.56-0-virt/kernel/net/core/failover.ko.gz");
    assert!(module.starts_with(&[0x1f, 0x8b]));
    if let Some(modules) = fixtures("modules") {
        let same = |path: &Path| std::fs::read(path).is_ok_and(|bytes| bytes == module);
        assert!(walk(&modules).iter().any(|p| same(p)), "the module is that of the fixtures");
    }
    assert_eq!(found.routes, [Route { start: 0, end: 255, url: "dir:///srv/flist-store".into() }]);
    assert_eq!(found.tags, [("version".to_owned(), "test".to_owned())]);
    // What was read is written, and read again.
    assert_eq!(read(&write(&found).unwrap(), &Limits::default()).unwrap(), found);
}

fn walk(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(walk(&entry.path())),
            false => found.push(entry.path()),
        }
    }
    found
}

#[test]
fn what_is_written_is_read_back_and_is_always_the_same_bytes() {
    let bytes = write(&sample()).unwrap();
    assert_eq!(read(&bytes, &Limits::default()).unwrap(), sample());
    for _ in 0..3 {
        assert!(write(&sample()).unwrap() == bytes);
    }
    // Elsewhere too: the header has neither counters nor versions that another machine would have otherwise.
    let digest = hex(&block::hash(&bytes));
    assert_eq!((flist::sqlite_version(), &digest[..]), PINNED, "raise the version of the builtin `flist`");
}

/// The bytes of `sample` that this SQLite makes.
const PINNED: (&str, &str) = ("3.50.2", "5901c439b79c84aa042c6dad023a157e9d0c8b329a90b7e6168ae44148289ac5");

#[test]
fn python_reads_what_we_write() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("x.fl");
    std::fs::write(&path, write(&sample()).unwrap()).unwrap();
    let script = r#"
import sqlite3, sys
db = sqlite3.connect("file:" + sys.argv[1] + "?mode=ro", uri=True)
print(db.execute("PRAGMA integrity_check").fetchone()[0])
q = "SELECT inode.*, iif(extra.data IS NULL, '-', hex(extra.data)) FROM inode LEFT JOIN extra ON inode.ino = extra.ino WHERE parent = ? AND name = ?"
for parent, name in ((0, "/"), (1, "big"), (1, "link"), (3, "console"), (3, "nvme")):
    print(*db.execute(q, (parent, name)).fetchone())
print(db.execute("SELECT count(*), count(DISTINCT id), sum(length(id) + length(key)) FROM block WHERE ino = 2").fetchone())
print(db.execute("SELECT * FROM route").fetchall(), db.execute("SELECT * FROM tag").fetchall())
print(db.execute("SELECT group_concat(name) FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL").fetchone()[0])
"#;
    let out = tool("python3", &["-c", script, path.to_str().unwrap()], scratch.path(), b"");
    let expected = "ok
1 0 / 4096 0 0 16877 0 1735689600 1735689600 -
2 1 big 1572864 3 42 35309 0 1735689600 1735689600 -
8 1 link 8 0 0 41471 0 1735689600 1735689600 FF2F2E2E2F657463
4 3 console 0 0 0 8576 1281 1735689600 1735689600 -
5 3 nvme 0 0 0 25008 305201989 1735689600 1735689600 -
(3, 1, 192)
[(0, 255, 'dir:///srv/store')] [('version', '1')]
parents,names,block_ino
";
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

#[test]
fn what_an_flist_cannot_have_is_refused() {
    let refused = |entries: Vec<Entry>, what: &str| {
        let error = write(&Flist { entries, ..Flist::default() }).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    };
    let dir = |path: &str| entry(path, 0o755, Kind::Dir);
    refused(vec![dir("a/b")], "its directory does not come before it");
    refused(vec![dir("b"), dir("a")], "out of order");
    refused(vec![dir("a"), dir("a")], "there twice");
    refused(vec![dir("..")], "named . or ..");
    refused(vec![dir("a\0b")], "NUL");
    refused(vec![dir(&"a".repeat(256))], "255");
    refused(vec![dir("a"), dir(".")], "the root comes first");
    refused(vec![entry("f", 0o644, Kind::File { size: 1, blocks: Vec::new() })], "not that of its blocks");
    refused(vec![entry("l", 0o777, Kind::Symlink { target: Vec::new() })], "target is empty");
    refused(vec![entry("s", 0o644, Kind::Socket)], "socket");
    refused(vec![entry("m", 0o100644, Kind::Fifo)], "mode");
}

/// The sample with its database changed by these statements.
fn changed(sql: &str) -> Vec<u8> {
    let bytes = write(&sample()).unwrap();
    let mut db = Connection::open_in_memory().unwrap();
    db.deserialize_read_exact("main", &bytes[..], bytes.len(), false).unwrap();
    db.execute_batch(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
    db.serialize("main").unwrap().to_vec()
}

#[test]
fn hostile_flists_are_refused() {
    for (sql, what) in [
        ("UPDATE inode SET name = '../big' WHERE name = 'big'", "inode 2: its name has a slash"),
        ("UPDATE inode SET name = '..' WHERE name = 'big'", "named . or .."),
        ("UPDATE inode SET name = '' WHERE name = 'big'", "its name is empty"),
        ("UPDATE inode SET name = 'a' || char(0) WHERE name = 'big'", "NUL"),
        ("UPDATE inode SET name = x'2f' WHERE name = 'big'", "a text was expected, not Blob"),
        ("UPDATE inode SET name = CAST(x'ff' AS TEXT) WHERE name = 'big'", "not UTF-8"),
        ("UPDATE inode SET name = 'big' WHERE name = 'empty'", "\"big\": it is there twice"),
        ("UPDATE inode SET parent = 99 WHERE name = 'big'", "inode 2: its directory 99 is not there"),
        ("UPDATE inode SET parent = 2 WHERE name = 'empty'", "2, which it is in, is no directory"),
        ("UPDATE inode SET parent = 3 WHERE ino = 3", "in a circle"),
        ("DELETE FROM inode WHERE ino = 1", "there is no root"),
        ("UPDATE inode SET mode = 33188 WHERE ino = 1", "the root is no directory"),
        ("UPDATE inode SET mode = 0 WHERE name = 'pipe'", "no file type"),
        ("UPDATE inode SET mode = -1 WHERE name = 'pipe'", "does not fit in 32 bits"),
        ("UPDATE inode SET uid = 4294967296 WHERE name = 'pipe'", "does not fit in 32 bits"),
        ("UPDATE inode SET size = 9223372036854775807 WHERE name = 'big'", "not those of 3 blocks"),
        ("UPDATE inode SET size = -1 WHERE name = 'big'", "its size is negative"),
        ("UPDATE inode SET size = 1 WHERE name = 'empty'", "not those of 0 blocks"),
        ("INSERT INTO block VALUES (3, x'00', x'00')", "a hash has 32 bytes, not 1"),
        ("INSERT INTO block VALUES (3, zeroblob(32), zeroblob(32))", "it has blocks, and is no file"),
        ("INSERT INTO block VALUES (99, zeroblob(32), zeroblob(32))", "inode 99: there are rows for it"),
        ("INSERT INTO extra VALUES (2, 'x')", "it has the target of a symlink, and is none"),
        ("DELETE FROM extra", "a symlink without a target"),
        ("UPDATE extra SET data = zeroblob(5000)", "has 5000 bytes"),
        ("UPDATE extra SET data = zeroblob(2000000)", "too big"),
        ("UPDATE route SET end = 256", "256 is no first byte"),
        ("DROP TABLE extra", "no table extra"),
        (
            "DROP TABLE route; CREATE VIEW route AS SELECT 0 AS start, 0 AS end, '' AS url",
            "it has a view route",
        ),
        ("CREATE TRIGGER t AFTER INSERT ON tag BEGIN DELETE FROM tag; END", "it has a trigger t"),
        ("DROP TABLE tag; CREATE VIRTUAL TABLE tag USING fts5(key, value)", "it has a virtual table tag"),
        ("ALTER TABLE tag RENAME COLUMN value TO other", "no such column: value"),
    ] {
        let error = read(&changed(sql), &Limits::default()).expect_err(sql).to_string();
        assert!(error.contains(what), "{sql}: {error}");
    }
    let few = Limits { entries: 3, ..Limits::default() };
    assert!(matches!(read(&changed(""), &few), Err(Error::Limit { what: "inode", limit: 3 })));
    let few = Limits { blocks: 2, ..Limits::default() };
    assert!(matches!(read(&changed(""), &few), Err(Error::Limit { what: "block", limit: 2 })));
    let short = Limits { paths: 10, ..Limits::default() };
    assert!(matches!(read(&changed(""), &short), Err(Error::Limit { what: "bytes of paths", .. })));
    // A circle of two, beside the root.
    let circle = "UPDATE inode SET parent = (SELECT ino FROM inode WHERE name = 'lib') WHERE name = 'dev';
        UPDATE inode SET parent = (SELECT ino FROM inode WHERE name = 'dev') WHERE name = 'lib'";
    let error = read(&changed(circle), &Limits::default()).unwrap_err().to_string();
    assert!(error.contains("in a circle"), "{error}");
    assert!(read(b"", &Limits::default()).is_err());
    assert!(read(b"SQLite format 3\0", &Limits::default()).is_err());
}

#[test]
fn a_deep_chain_of_folders_is_too_long_and_not_too_deep() {
    let chain = "INSERT INTO inode SELECT 100 + value, 99 + value, 'n', 0, 0, 0, 16877, 0, 0, 0 FROM
        (WITH RECURSIVE n(value) AS (SELECT 0 UNION ALL SELECT value + 1 FROM n LIMIT 9000) SELECT value FROM n);
        UPDATE inode SET parent = 1 WHERE ino = 100";
    let error = read(&changed(chain), &Limits::default()).unwrap_err().to_string();
    assert!(error.contains("longer than Linux takes"), "{error}");
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![
        3 => Just(Kind::Dir),
        3 => (prop::collection::vec(any::<u8>(), 0..64), prop_oneof![Just(1usize), 9000..20000usize])
            .prop_map(|(content, times)| file(&content.repeat(times))),
        1 => prop::collection::vec(1u8.., 1..20).prop_map(|target| Kind::Symlink { target }),
        1 => any::<(u32, u32)>().prop_map(|(major, minor)| Kind::Char { major, minor }),
        1 => any::<(u32, u32)>().prop_map(|(major, minor)| Kind::Block { major, minor }),
        1 => Just(Kind::Fifo),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_tree_comes_back(
        made in prop::collection::vec(("[^/\0]{1,6}", any::<prop::sample::Index>(), kinds(), any::<(u16, u32, u32)>(), any::<i32>()), 0..40),
        tags in prop::collection::btree_map("[a-z]{1,9}", ".{0,9}", 0..4),
    ) {
        let mut entries: BTreeMap<String, Entry> = BTreeMap::new();
        for (name, above, kind, (mode, uid, gid), mtime) in made {
            if name == "." || name == ".." { continue }
            let mut dirs = vec![String::new()];
            dirs.extend(entries.values().filter(|e| e.kind == Kind::Dir).map(|e| e.path.clone() + "/"));
            let path = format!("{}{name}", above.get(&dirs));
            let mode = u32::from(mode) & 0o7777;
            entries.entry(path.clone()).or_insert(Entry { path, mode, uid, gid, mtime: i64::from(mtime), kind });
        }
        let mut all = vec![entry(".", 0o700, Kind::Dir)];
        all.extend(entries.into_values());
        let flist = Flist { entries: all, routes: Vec::new(), tags: tags.into_iter().collect() };
        let bytes = write(&flist).unwrap();
        prop_assert_eq!(read(&bytes, &Limits::default()).unwrap(), flist);
    }

    #[test]
    fn damage_is_an_error_or_an_flist(places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..30), cut: prop::sample::Index) {
        let mut bytes = write(&sample()).unwrap();
        for (at, byte) in places {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = read(&bytes, &Limits::default());
        bytes.truncate(cut.index(bytes.len()));
        let _ = read(&bytes, &Limits::default());
    }
}
