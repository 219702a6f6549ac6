//! What changed in mosbuild.lock, in words: sources and packages added, removed, of another version or size.
//! Knows pins as names and texts; neither the file nor what a source is.

use std::fmt::Write as _;

use mosbuild_engine::lockfile::{Pin, Pins, Row};

/// Fields that people know a source by, the first that is there.
const VERSIONS: [&str; 2] = ["version", "commit"];
/// Digits of a commit that tell it from others.
const COMMIT: usize = 12;
/// Digests of all that a source is, the first that is there.
const DIGESTS: [&str; 2] = ["blake3", "tree"];

/// One line for each change; a pin's rows stand indented below it. Empty if nothing changed.
pub fn changes(before: &Pins, after: &Pins) -> String {
    let mut out = String::new();
    let ids: std::collections::BTreeSet<&String> =
        before.iter().chain(after.iter()).map(|(id, _)| id).collect();
    for id in ids {
        match (before.get(id), after.get(id)) {
            (None, Some(pin)) => {
                let _ = writeln!(out, "added {id}{}", told(&pin.fields));
                rows(&mut out, &Pin::default(), pin);
            }
            (Some(pin), None) => {
                let _ = writeln!(out, "removed {id}{}", told(&pin.fields));
            }
            (Some(old), Some(new)) if old != new => {
                let _ = writeln!(out, "changed {id}{}", change(&old.fields, &new.fields));
                rows(&mut out, old, new);
            }
            _ => {}
        }
    }
    out
}

fn rows(out: &mut String, old: &Pin, new: &Pin) {
    let tables: std::collections::BTreeSet<&String> = old.tables.keys().chain(new.tables.keys()).collect();
    for table in tables {
        let names: std::collections::BTreeSet<&String> =
            old.rows(table).chain(new.rows(table)).map(|(name, _)| name).collect();
        for name in names {
            let _ = match (old.row(table, name), new.row(table, name)) {
                (None, Some(row)) => writeln!(out, "  {table} {name} added{}", told(row)),
                (Some(row), None) => writeln!(out, "  {table} {name} removed{}", told(row)),
                (Some(a), Some(b)) if a != b => writeln!(out, "  {table} {name}{}", change(a, b)),
                _ => Ok(()),
            };
        }
    }
}

fn version(fields: &Row) -> Option<&str> {
    let (name, value) = VERSIONS.iter().find_map(|name| fields.get_key_value(*name))?;
    match name.as_str() {
        "commit" => value.get(..COMMIT).or(Some(value)),
        _ => Some(value),
    }
}

fn digest(fields: &Row) -> Option<&String> {
    DIGESTS.iter().find_map(|name| fields.get(*name))
}

fn size(fields: &Row) -> Option<u64> {
    fields.get("size")?.parse().ok()
}

/// ` 1.7.1-r0, 160 kB`
fn told(fields: &Row) -> String {
    match (version(fields), size(fields)) {
        (Some(version), Some(size)) => format!(" {version}, {}", bytes(size)),
        (Some(version), None) => format!(" {version}"),
        (None, Some(size)) => format!(", {}", bytes(size)),
        (None, None) => String::new(),
    }
}

/// ` 1.2-r0 → 1.3-r1, size +40 kB`
fn change(old: &Row, new: &Row) -> String {
    let mut out = String::new();
    match (version(old), version(new)) {
        (Some(a), Some(b)) if a != b => out.push_str(&format!(" {a} → {b}")),
        (Some(same), Some(_)) => {
            let _ = write!(out, " {same}");
            if digest(old) != digest(new) {
                out.push_str(", other bytes");
            }
        }
        _ if digest(old) != digest(new) => out.push_str(" other bytes"),
        _ => {}
    }
    if let (Some(a), Some(b)) = (size(old), size(new))
        && a != b
    {
        let _ = write!(out, ", size {}{}", if b > a { '+' } else { '-' }, bytes(a.abs_diff(b)));
    }
    out
}

/// Decimal, as people compare downloads: `512 B`, `40 kB`, `3.4 MB`.
fn bytes(count: u64) -> String {
    match count {
        0..1_000 => format!("{count} B"),
        1_000..1_000_000 => format!("{:.0} kB", count as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", count as f64 / 1e6),
        _ => format!("{:.1} GB", count as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use mosbuild_engine::lockfile::Missing;

    use super::*;

    fn row(version: &str, size: u64, blake3: &str) -> Row {
        [("version", version.to_owned()), ("size", size.to_string()), ("blake3", blake3.to_owned())]
            .map(|(k, v)| (k.to_owned(), v))
            .into()
    }

    #[test]
    fn versions_and_sizes_are_told() {
        let dir = std::env::temp_dir().join(format!("mosbuild-lock-diff-{}", std::process::id()));
        let empty = Pins::read(&dir, Missing::Make).unwrap();
        let packages = |list: &[(&str, Row)]| Pin {
            tables: [(
                "package".to_owned(),
                list.iter().map(|(n, r)| ((*n).to_owned(), r.clone())).collect(),
            )]
            .into(),
            ..Pin::default()
        };
        let (mut before, mut after) = (empty.clone(), empty.clone());
        let old =
            [("a", row("1.2-r0", 100_000, "1")), ("b", row("1-r0", 10, "2")), ("same", row("1", 1, "3"))];
        let new = [
            ("a", row("1.3-r1", 140_000, "4")),
            ("c", row("2-r0", 2_500_000, "5")),
            ("same", row("1", 1, "3")),
        ];
        before.insert("packages image", packages(&old));
        after.insert("packages image", packages(&new));
        before
            .insert("url x", Pin { fields: [("size".to_owned(), "5".to_owned())].into(), ..Pin::default() });
        after.insert("crate y 1", Pin::of([("version", "1.0.1".into())]));
        assert_eq!(
            changes(&before, &after),
            "added crate y 1 1.0.1\n\
             changed packages image\n  \
             package a 1.2-r0 → 1.3-r1, size +40 kB\n  \
             package b removed 1-r0, 10 B\n  \
             package c added 2-r0, 2.5 MB\n\
             removed url x, 5 B\n"
        );
        assert_eq!(changes(&after, &after), "");
        let commit = |digit: &str, tree: &str| {
            Pin::of([("commit", digit.repeat(40)), ("tree", tree.into()), ("ref", "refs/heads/main".into())])
        };
        let (mut then, mut now) = (empty.clone(), empty.clone());
        then.insert("git x main", commit("a", "1"));
        now.insert("git x main", commit("b", "2"));
        now.insert("git y v1", commit("c", "3"));
        assert_eq!(
            changes(&then, &now),
            "changed git x main aaaaaaaaaaaa → bbbbbbbbbbbb\nadded git y v1 cccccccccccc\n"
        );
        now.insert("git x main", commit("a", "2"));
        assert!(changes(&then, &now).starts_with("changed git x main aaaaaaaaaaaa, other bytes\n"));
        let rebuilt = packages(&[("a", row("1.3-r1", 139_000, "9"))]);
        assert!(
            changes(&after, &{
                let mut rebuilt_pins = after.clone();
                rebuilt_pins.insert("packages image", rebuilt);
                rebuilt_pins
            })
            .contains("package a 1.3-r1, other bytes, size -1 kB")
        );
    }
}
