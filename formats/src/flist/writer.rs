//! Writes an flist so that equal entries give equal bytes: rows in the order of paths, one transaction, one page size, one time
//! for all, one size for directories. What else decides the bytes is SQLite's version ([`sqlite_version`]). The database is made
//! in memory; nothing is read or written.

use std::collections::HashMap;

use rusqlite::{Connection, params};

use super::{Error, Flist, Kind, PATH_MAX, device, name_fault};

/// What every directory's size is: those of file systems depend on how they came to be.
const DIR_SIZE: i64 = 4096;

/// The tables and their columns are those that rfs reads, by name.
const TABLES: &str = "
CREATE TABLE inode (ino INTEGER PRIMARY KEY AUTOINCREMENT, parent INTEGER, name VARCHAR(255), size INTEGER, uid INTEGER,
    gid INTEGER, mode INTEGER, rdev INTEGER, ctime INTEGER, mtime INTEGER);
CREATE TABLE extra (ino INTEGER PRIMARY KEY, data VARCHAR(4096));
CREATE TABLE block (ino INTEGER, id VARCHAR(32), key VARCHAR(32));
CREATE TABLE tag (key VARCHAR(10) PRIMARY KEY, value VARCHAR(255));
CREATE TABLE route (start INTEGER, end INTEGER, url VARCHAR(2048));
";

/// Made when all rows are there: each is then written once, from its first page to its last.
const INDEXES: &str = "
CREATE INDEX parents ON inode (parent);
CREATE INDEX names ON inode (name);
CREATE INDEX block_ino ON block (ino);
";

/// The version of the SQLite that is built in, whose pages an flist is made of.
pub fn sqlite_version() -> &'static str {
    rusqlite::version()
}

/// The bytes of an flist. Entries must come sorted, parents first; a root that is absent is made, 0755 and 0:0, with the time of
/// the first entry.
pub fn write(flist: &Flist) -> Result<Vec<u8>, Error> {
    let mut db = Connection::open_in_memory()?;
    db.execute_batch("PRAGMA page_size = 4096; PRAGMA encoding = 'UTF-8'; PRAGMA auto_vacuum = NONE;")?;
    let transaction = db.transaction()?;
    transaction.execute_batch(TABLES)?;
    {
        let mut rows = Rows::new(&transaction)?;
        if flist.entries.first().is_none_or(|e| e.path != ".") {
            let mtime = flist.entries.first().map_or(0, |e| e.mtime);
            let (path, mode) = (".".to_owned(), 0o755);
            rows.entry(&super::Entry { path, mode, uid: 0, gid: 0, mtime, kind: Kind::Dir })?;
        }
        for entry in &flist.entries {
            rows.entry(entry)?;
        }
    }
    let mut tags = flist.tags.clone();
    tags.sort();
    for (key, value) in tags {
        transaction.execute("INSERT INTO tag (key, value) VALUES (?, ?)", params![key, value])?;
    }
    for route in &flist.routes {
        let insert = "INSERT INTO route (start, end, url) VALUES (?, ?, ?)";
        transaction.execute(insert, params![route.start, route.end, route.url])?;
    }
    transaction.execute_batch(INDEXES)?;
    transaction.commit()?;
    Ok(db.serialize("main")?.to_vec())
}

/// Rows of entries, being written.
struct Rows<'a> {
    inode: rusqlite::Statement<'a>,
    extra: rusqlite::Statement<'a>,
    block: rusqlite::Statement<'a>,
    /// Directories by path.
    dirs: HashMap<String, i64>,
    last: Option<String>,
    ino: i64,
}

impl<'a> Rows<'a> {
    fn new(db: &'a Connection) -> Result<Rows<'a>, Error> {
        Ok(Rows {
            inode: db.prepare("INSERT INTO inode VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)")?,
            extra: db.prepare("INSERT INTO extra VALUES (?, ?)")?,
            block: db.prepare("INSERT INTO block VALUES (?, ?, ?)")?,
            dirs: HashMap::new(),
            last: None,
            ino: 0,
        })
    }

    fn entry(&mut self, entry: &super::Entry) -> Result<(), Error> {
        let fails = |why| Err(Error::Entry { path: entry.path.clone(), why });
        let is_root = entry.path == ".";
        let (parent, name) = match entry.path.rsplit_once('/') {
            _ if is_root => (0, "/"),
            Some((parent, name)) => match self.dirs.get(parent) {
                Some(ino) => (*ino, name),
                None => return fails("its directory does not come before it"),
            },
            None => (1, &*entry.path),
        };
        if is_root && (self.ino != 0 || entry.kind != Kind::Dir) {
            return fails("the root comes first, and is a directory");
        }
        if !is_root {
            if let Some(why) = name_fault(name) {
                return fails(why);
            }
            if self.last.as_ref().is_some_and(|last| *last >= entry.path) {
                return fails("it is there twice, or out of order");
            }
            self.last = Some(entry.path.clone());
        }
        if entry.path.len() > PATH_MAX {
            return fails("its path is longer than Linux takes");
        }
        if entry.mode & !0o7777 != 0 {
            return fails("its mode has bits outside 07777");
        }
        let (size, rdev) = match &entry.kind {
            Kind::Dir => (DIR_SIZE, 0),
            Kind::File { size, blocks } => match i64::try_from(*size) {
                Ok(size_row) if size.div_ceil(super::BLOCK_SIZE as u64) == blocks.len() as u64 => {
                    (size_row, 0)
                }
                _ => return fails("its size is not that of its blocks"),
            },
            Kind::Symlink { target }
                if target.is_empty() || target.len() > PATH_MAX || target.contains(&0) =>
            {
                return fails("its target is empty, too long or with a NUL");
            }
            Kind::Symlink { target } => (target.len() as i64, 0),
            Kind::Char { major, minor } | Kind::Block { major, minor } => (0, device(*major, *minor)),
            Kind::Fifo => (0, 0),
            Kind::Socket => return fails("it is a socket"),
        };
        self.ino += 1;
        let mode = entry.kind.type_bits() | entry.mode;
        let (uid, gid, mtime) = (entry.uid, entry.gid, entry.mtime);
        // An i64 has all the bits of a dev_t; rfs reads it back so.
        let rdev = rdev as i64;
        self.inode.execute(params![self.ino, parent, name, size, uid, gid, mode, rdev, mtime, mtime])?;
        match &entry.kind {
            Kind::Dir => {
                self.dirs.insert(entry.path.clone(), self.ino);
            }
            Kind::Symlink { target } => {
                self.extra.execute(params![self.ino, target])?;
            }
            Kind::File { blocks, .. } => {
                for block in blocks {
                    self.block.execute(params![self.ino, &block.id[..], &block.key[..]])?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}
