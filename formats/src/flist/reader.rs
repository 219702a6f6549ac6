//! Reads flists, those of rfs and ours, trusting nothing: the database may be damaged or made to harm.
//! Decodes no block; does not know where they are.
//!
//! Only whole tables are read, in the order of their rows and without their indexes, so that a damaged index shows nothing
//! wrong, and every loop is bounded by [`Limits`].

use std::collections::HashMap;

use rusqlite::limits::Limit;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row};

use super::{
    BLOCK_SIZE, BlockRef, Entry, Error, Flist, Hash, Kind, PATH_MAX, Route, S_IFBLK, S_IFCHR, S_IFDIR,
    S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, S_IFSOCK, device_numbers, name_fault,
};

/// What a reader accepts before it gives up.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Entries.
    pub entries: u64,
    /// Blocks of all files, each as often as it is named.
    pub blocks: u64,
    /// Bytes of all paths together.
    pub paths: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { entries: 4_000_000, blocks: 64_000_000, paths: 1 << 30 }
    }
}

/// Tables that every flist has.
const TABLES: [&str; 5] = ["inode", "extra", "block", "tag", "route"];
/// Longest text or blob of a row that is looked at; a target of a symlink is the longest that may be.
const VALUE_MAX: i32 = 1 << 20;
/// Tags and routes together.
const FEW: u64 = 10_000;

struct Inode {
    parent: i64,
    name: String,
    size: i64,
    uid: u32,
    gid: u32,
    mode: u32,
    rdev: i64,
    mtime: i64,
}

/// Reads an flist.
pub fn read(bytes: &[u8], limits: &Limits) -> Result<Flist, Error> {
    if !super::begins(bytes) {
        return Err(Error::Schema("this is no SQLite database".into()));
    }
    let mut db = Connection::open_in_memory()?;
    db.deserialize_read_exact("main", bytes, bytes.len(), true)?;
    for (limit, value) in [
        (Limit::SQLITE_LIMIT_LENGTH, VALUE_MAX),
        (Limit::SQLITE_LIMIT_SQL_LENGTH, 64 << 10),
        (Limit::SQLITE_LIMIT_COLUMN, 100),
        (Limit::SQLITE_LIMIT_EXPR_DEPTH, 20),
        (Limit::SQLITE_LIMIT_ATTACHED, 0),
    ] {
        db.set_limit(limit, value)?;
    }
    // Functions of a hostile schema are not called, and lengths of cells are looked at.
    db.execute_batch("PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON; PRAGMA query_only = ON;")?;
    check_schema(&db)?;

    let mut inodes: HashMap<i64, Inode> = HashMap::new();
    let columns = "ino, parent, name, size, uid, gid, mode, rdev, mtime";
    rows(&db, "inode", columns, limits.entries, |row| {
        let ino = integer(row, 0)?;
        let inode = Inode {
            parent: integer(row, 1)?,
            name: text(row, 2)?,
            size: integer(row, 3)?,
            uid: small(row, 4)?,
            gid: small(row, 5)?,
            mode: small(row, 6)?,
            rdev: integer(row, 7)?,
            mtime: integer(row, 8)?,
        };
        inodes.insert(ino, inode).map_or(Ok(()), |_| Err(format!("{ino} is there twice")))
    })?;
    let mut targets: HashMap<i64, Vec<u8>> = HashMap::new();
    rows(&db, "extra", "ino, data", limits.entries, |row| {
        let (ino, target) = (integer(row, 0)?, blob(row, 1)?.to_vec());
        if target.len() > PATH_MAX {
            return Err(format!("{ino} has {} bytes", target.len()));
        }
        targets.insert(ino, target).map_or(Ok(()), |_| Err(format!("{ino} is there twice")))
    })?;
    let mut blocks: HashMap<i64, Vec<BlockRef>> = HashMap::new();
    rows(&db, "block", "ino, id, key", limits.blocks, |row| {
        let block = BlockRef { id: hash(row, 1)?, key: hash(row, 2)? };
        blocks.entry(integer(row, 0)?).or_default().push(block);
        Ok(())
    })?;
    let mut flist = Flist::default();
    rows(&db, "tag", "key, value", FEW, |row| {
        flist.tags.push((text(row, 0)?, text(row, 1)?));
        Ok(())
    })?;
    flist.tags.sort();
    rows(&db, "route", "start, end, url", FEW, |row| {
        let byte = |column| {
            let n = integer(row, column)?;
            u8::try_from(n).map_err(|_| format!("{n} is no first byte of an id"))
        };
        flist.routes.push(Route { start: byte(0)?, end: byte(1)?, url: text(row, 2)? });
        Ok(())
    })?;
    flist.entries = entries(inodes, targets, blocks, limits)?;
    Ok(flist)
}

/// Every table is a table: no view, whose rows would be computed, and nothing that runs.
fn check_schema(db: &Connection) -> Result<(), Error> {
    let mut found = Vec::new();
    rows(db, "sqlite_schema", "type, name, sql", FEW, |row| {
        let (kind, name) = (text(row, 0)?, text(row, 1)?);
        let sql = text(row, 2).unwrap_or_default();
        let is_virtual = sql.to_ascii_uppercase().contains("VIRTUAL");
        if !matches!(&*kind, "table" | "index") || is_virtual {
            return Err(format!("it has a {} {name}", if is_virtual { "virtual table" } else { &kind }));
        }
        if kind == "table" {
            found.push(name.to_ascii_lowercase());
        }
        Ok(())
    })?;
    match TABLES.iter().find(|table| !found.iter().any(|name| name == *table)) {
        Some(table) => Err(Error::Schema(format!("this database has no table {table}"))),
        None => Ok(()),
    }
}

/// Shows each row of a table in order.
fn rows(
    db: &Connection,
    table: &'static str,
    columns: &str,
    limit: u64,
    mut each: impl FnMut(&Row<'_>) -> Result<(), String>,
) -> Result<(), Error> {
    let mut statement = db.prepare(&format!("SELECT {columns} FROM {table} NOT INDEXED"))?;
    let mut rows = statement.query([])?;
    let mut count = 0;
    while let Some(row) = rows.next()? {
        count += 1;
        if count > limit {
            return Err(Error::Limit { what: table, limit });
        }
        each(row).map_err(|why| Error::Row { table, why })?;
    }
    Ok(())
}

fn value<'r>(row: &'r Row<'_>, column: usize) -> Result<ValueRef<'r>, String> {
    row.get_ref(column).map_err(|e| e.to_string())
}

fn integer(row: &Row<'_>, column: usize) -> Result<i64, String> {
    match value(row, column)? {
        ValueRef::Integer(n) => Ok(n),
        other => Err(format!("a number was expected, not {}", other.data_type())),
    }
}

fn small(row: &Row<'_>, column: usize) -> Result<u32, String> {
    let n = integer(row, column)?;
    u32::try_from(n).map_err(|_| format!("{n} does not fit in 32 bits"))
}

fn text(row: &Row<'_>, column: usize) -> Result<String, String> {
    match value(row, column)? {
        ValueRef::Text(bytes) => {
            String::from_utf8(bytes.to_vec()).map_err(|_| "a text is not UTF-8".to_owned())
        }
        other => Err(format!("a text was expected, not {}", other.data_type())),
    }
}

fn blob<'r>(row: &'r Row<'_>, column: usize) -> Result<&'r [u8], String> {
    match value(row, column)? {
        ValueRef::Blob(bytes) | ValueRef::Text(bytes) => Ok(bytes),
        other => Err(format!("bytes were expected, not {}", other.data_type())),
    }
}

fn hash(row: &Row<'_>, column: usize) -> Result<Hash, String> {
    let bytes = blob(row, column)?;
    bytes.try_into().map_err(|_| format!("a hash has 32 bytes, not {}", bytes.len()))
}

/// Rows as entries: each below a directory, every name a name, all of them reached from the root.
fn entries(
    inodes: HashMap<i64, Inode>,
    mut targets: HashMap<i64, Vec<u8>>,
    mut blocks: HashMap<i64, Vec<BlockRef>>,
    limits: &Limits,
) -> Result<Vec<Entry>, Error> {
    let fails = |ino: i64, why: &str| Err(Error::Inode { ino, why: why.into() });
    match inodes.get(&1) {
        None => return fails(1, "there is no root"),
        Some(root) if root.mode & S_IFMT != S_IFDIR => return fails(1, "the root is no directory"),
        Some(_) => {}
    }
    let mut children: HashMap<i64, Vec<i64>> = HashMap::new();
    for (&ino, inode) in inodes.iter().filter(|(ino, _)| **ino != 1) {
        if let Some(why) = name_fault(&inode.name) {
            return fails(ino, why);
        }
        match inodes.get(&inode.parent) {
            None => return fails(ino, &format!("its directory {} is not there", inode.parent)),
            Some(parent) if parent.mode & S_IFMT != S_IFDIR => {
                return fails(ino, &format!("{}, which it is in, is no directory", inode.parent));
            }
            Some(_) => children.entry(inode.parent).or_default().push(ino),
        }
    }
    let mut found = Vec::new();
    let mut left = limits.paths;
    let mut waiting = vec![(1, ".".to_owned())];
    // Each inode has one directory, so none is come to twice; one of a circle is never come to.
    while let Some((ino, path)) = waiting.pop() {
        let Some(inode) = inodes.get(&ino) else { continue };
        left = left
            .checked_sub(path.len() as u64)
            .ok_or(Error::Limit { what: "bytes of paths", limit: limits.paths })?;
        for &child in children.get(&ino).into_iter().flatten() {
            let name = inodes.get(&child).map(|c| c.name.as_str()).unwrap_or_default();
            let path = if ino == 1 { name.to_owned() } else { format!("{path}/{name}") };
            if path.len() > PATH_MAX {
                return fails(child, "its path is longer than Linux takes");
            }
            waiting.push((child, path));
        }
        let kind = kind(ino, inode, targets.remove(&ino), blocks.remove(&ino).unwrap_or_default())?;
        let Inode { uid, gid, mtime, .. } = *inode;
        found.push(Entry { path, mode: inode.mode & 0o7777, uid, gid, mtime, kind });
    }
    if found.len() != inodes.len() {
        return fails(1, "some inodes are in a circle, and not below the root");
    }
    if let Some(ino) = blocks.keys().chain(targets.keys()).min() {
        return fails(*ino, "there are rows for it, and it is not there");
    }
    found.sort_unstable_by(|a, b| (a.path != ".", &a.path).cmp(&(b.path != ".", &b.path)));
    if let Some(pair) = found.windows(2).find(|pair| pair[0].path == pair[1].path) {
        let path = pair[0].path.clone();
        return Err(Error::Entry { path, why: "it is there twice" });
    }
    Ok(found)
}

fn kind(ino: i64, inode: &Inode, target: Option<Vec<u8>>, blocks: Vec<BlockRef>) -> Result<Kind, Error> {
    let fails = |why: &str| Err(Error::Inode { ino, why: why.into() });
    let file_type = inode.mode & S_IFMT;
    if !blocks.is_empty() && file_type != S_IFREG {
        return fails("it has blocks, and is no file");
    }
    if target.is_some() && file_type != S_IFLNK {
        return fails("it has the target of a symlink, and is none");
    }
    let (major, minor) = device_numbers(inode.rdev as u64);
    Ok(match file_type {
        S_IFDIR => Kind::Dir,
        S_IFREG => {
            let Ok(size) = u64::try_from(inode.size) else { return fails("its size is negative") };
            let most = (blocks.len() as u64).saturating_mul(BLOCK_SIZE as u64);
            if size > most || (size < blocks.len() as u64) {
                return fails(&format!("{size} bytes are not those of {} blocks", blocks.len()));
            }
            Kind::File { size, blocks }
        }
        S_IFLNK => match target {
            Some(target) if !target.is_empty() && !target.contains(&0) => Kind::Symlink { target },
            _ => return fails("it is a symlink without a target, or with a NUL in it"),
        },
        S_IFCHR => Kind::Char { major, minor },
        S_IFBLK => Kind::Block { major, minor },
        S_IFIFO => Kind::Fifo,
        S_IFSOCK => Kind::Socket,
        other => return fails(&format!("there is no file type 0{other:o}")),
    })
}
