//! Entries as lines for people and as JSON for programs. Knows no archive.

use std::fmt::Write;

use mosbuild_rules::inspect::{Item, Kind};
use serde_json::{Value, json};

use crate::format::utc;

/// A path as it may be drawn: control characters, and bytes that are no UTF-8, as `\ooo`, like GNU tar and ls.
pub fn escaped(path: &[u8]) -> String {
    let mut out = String::new();
    for chunk in path.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                c if c.is_control() => {
                    let mut bytes = [0; 4];
                    for byte in c.encode_utf8(&mut bytes).bytes() {
                        let _ = write!(out, "\\{byte:03o}");
                    }
                }
                c => out.push(c),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(out, "\\{byte:03o}");
        }
    }
    out
}

/// `-rwsr-xr-x`, as ls writes it.
pub fn mode_text(item: &Item) -> String {
    let kind = match item.kind {
        Kind::Dir => 'd',
        Kind::File { .. } => '-',
        Kind::Symlink { .. } => 'l',
        Kind::Char { .. } => 'c',
        Kind::Block { .. } => 'b',
        Kind::Fifo => 'p',
        Kind::Socket => 's',
    };
    let mode = item.mode;
    let mut text = String::from(kind);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bit = |n: u32| mode >> shift & n != 0;
        text.push(if bit(4) { 'r' } else { '-' });
        text.push(if bit(2) { 'w' } else { '-' });
        text.push(match (mode & special != 0, bit(1)) {
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

/// The columns of a long listing: mode, owner, size or device, time, path with what a link says.
pub fn long(path: &[u8], item: &Item) -> [String; 5] {
    let size = match &item.kind {
        Kind::File { size, .. } => size.to_string(),
        Kind::Symlink { target } => target.len().to_string(),
        Kind::Char { major, minor } | Kind::Block { major, minor } => format!("{major},{minor}"),
        Kind::Dir | Kind::Fifo | Kind::Socket => "0".into(),
    };
    let name = match &item.kind {
        Kind::Symlink { target } => format!("{} -> {}", escaped(path), escaped(target)),
        _ => escaped(path),
    };
    let time = item.mtime.map(utc).unwrap_or_default();
    [mode_text(item), format!("{}/{}", item.uid, item.gid), size, time, name]
}

/// One entry for programs. A path that is no UTF-8 has its bytes beside it, in hex.
pub fn entry_json(path: &[u8], item: &Item) -> Value {
    let mut entry = json!({
        "path": String::from_utf8_lossy(path),
        "type": item.kind.name(),
        "mode": format!("{:04o}", item.mode),
        "uid": item.uid,
        "gid": item.gid,
    });
    if std::str::from_utf8(path).is_err() {
        entry["path_bytes"] = json!(path.iter().map(|b| format!("{b:02x}")).collect::<String>());
    }
    match &item.kind {
        Kind::File { digest, size } => {
            entry["size"] = json!(size);
            entry["blake3"] = json!(digest.hex());
        }
        Kind::Symlink { target } => entry["target"] = json!(String::from_utf8_lossy(target)),
        Kind::Char { major, minor } | Kind::Block { major, minor } => {
            entry["major"] = json!(major);
            entry["minor"] = json!(minor);
        }
        Kind::Dir | Kind::Fifo | Kind::Socket => {}
    }
    if let Some(mtime) = item.mtime {
        entry["mtime"] = json!(mtime);
        entry["archive"] = json!(item.part);
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(mode: u32, kind: Kind) -> Item {
        Item { mode, uid: 0, gid: 42, kind, mtime: None, xattrs: Vec::new(), part: 0 }
    }

    #[test]
    fn modes_are_written_as_ls_does() {
        assert_eq!(mode_text(&item(0o4755, Kind::Fifo)), "prwsr-xr-x");
        assert_eq!(mode_text(&item(0o2640, Kind::Dir)), "drw-r-S---");
        assert_eq!(mode_text(&item(0o1777, Kind::Dir)), "drwxrwxrwt");
        assert_eq!(mode_text(&item(0o1000, Kind::Socket)), "s--------T");
    }

    #[test]
    fn names_move_no_cursor() {
        assert_eq!(escaped(b"a\x1b[2Jb\n\\\xff"), "a\\033[2Jb\\012\\\\\\377");
        assert_eq!(escaped("\u{9b}ä".as_bytes()), "\\302\\233ä");
        let [mode, owner, size, time, name] =
            long(b"l", &item(0o777, Kind::Symlink { target: b"x\ny".into() }));
        assert_eq!((mode.as_str(), owner.as_str(), size.as_str()), ("lrwxrwxrwx", "0/42", "3"));
        assert_eq!((time.as_str(), name.as_str()), ("", "l -> x\\012y"));
    }
}
