//! The sizes of an image as tables for people.

use mosbuild_rules::contents::{Growth, signed, versions};

use super::{NONE, Row, Rows, Sizes};
use crate::format::{ago, now, size};
use crate::table::{Align, Table};
use crate::ui::Paint;

/// Rows of packages and of files before the rest is only counted.
const ROWS: usize = 20;

/// All of it. `against` is an earlier run and what changed since.
pub fn text(
    sizes: &Sizes,
    rows: &Rows,
    against: Option<(&Sizes, &Growth)>,
    all: bool,
    color: bool,
) -> String {
    let head = |text: &str| Paint::Bold.on(color, text);
    let mut out = format!(
        "{}  as run {} left it, {}\n\n",
        head(&sizes.root),
        sizes.run.id,
        ago(sizes.run.started, now())
    );
    out.push_str(&stages(sizes, color));
    if let Some(forecast) = sizes.archive().and_then(|a| a.forecast) {
        out.push_str(&format!(
            "\na machine needs {} of memory at least, and the kernel's own beside that: unpacked it is {} in {} entries, \
             and its file system may have half of the memory\n",
            size(forecast.ram()),
            size(forecast.unpacked),
            forecast.entries
        ));
    }
    let packed = sizes.archive().is_some_and(|a| a.bytes.is_some());
    let limit = if all { usize::MAX } else { ROWS };
    for (heading, rows, limit) in [
        ("layer", &rows.layers, usize::MAX),
        ("package", &rows.packages, limit),
        ("file", &rows.files, limit),
    ] {
        if !rows.is_empty() {
            out.push('\n');
            out.push_str(&table(heading, rows, limit, packed, color));
        }
    }
    out.push_str(match packed {
        true => "\n≈ An archive is one stream, which has no exact shares: each layer was compressed alone, quickly, and scaled.\n",
        false => "\n≈ Each layer compressed alone, quickly, by xz: no archive of this tree is known.\n",
    });
    if let Some((earlier, growth)) = against {
        out.push_str(&changes(sizes, earlier, growth, limit, color));
    }
    out
}

fn stages(sizes: &Sizes, color: bool) -> String {
    let mut table =
        Table::new(&[("", Align::Left), ("files", Align::Right), ("size", Align::Right), ("", Align::Right)]);
    let mut last = None;
    let percent = |bytes: u64, of: Option<u64>| match of {
        Some(of) if of > 0 && of != bytes => format!("{:.0} %", bytes as f64 * 100.0 / of as f64),
        _ => String::new(),
    };
    for stage in &sizes.stages {
        table.row([
            stage.step.as_str().into(),
            stage.files.to_string().into(),
            size(stage.bytes).into(),
            percent(stage.bytes, last).into(),
        ]);
        last = Some(stage.bytes);
    }
    for around in &sizes.around {
        let what = match &around.compress {
            Some((format, _)) if format == "none" => around.target.clone(),
            Some((format, level)) => format!("{}, {format} -{level}", around.target),
            None => around.target.clone(),
        };
        let bytes = around.bytes.map_or("not built".into(), size);
        let of = if around.compress.is_some() { last } else { None };
        let share = around.bytes.map(|bytes| percent(bytes, of)).unwrap_or_default();
        table.row([what.into(), String::new().into(), bytes.into(), share.into()]);
    }
    table.render(color)
}

fn table(heading: &'static str, rows: &[Row], limit: usize, packed: bool, color: bool) -> String {
    type Column = (&'static str, Align, fn(&Row) -> String);
    let share = if packed { "≈ in the archive" } else { "≈ compressed" };
    let files: Column = ("files", Align::Right, |row| row.files.to_string());
    let mut columns: Vec<Column> = match heading {
        "layer" => vec![
            (heading, Align::Left, |row| row.name.clone()),
            files,
            ("merged", Align::Right, |row| size(row.before)),
        ],
        "package" => {
            vec![
                (heading, Align::Left, |row| row.name.clone()),
                ("version", Align::Left, |row| row.of.clone()),
                files,
            ]
        }
        _ => vec![
            (heading, Align::Left, |row| format!("/{}", row.name)),
            ("layer", Align::Left, |row| row.of.clone()),
            ("package", Align::Left, |row| row.package.clone()),
        ],
    };
    // What is known of no file is no column.
    columns.retain(|(name, _, cell)| match *name {
        "layer" if heading == "file" => rows.iter().any(|row| cell(row) != NONE),
        "package" if heading == "file" => rows.iter().any(|row| !cell(row).is_empty()),
        _ => true,
    });
    columns.push(("size", Align::Right, |row| size(row.bytes)));
    columns.push((share, Align::Right, |row| size(row.share)));
    let heads: Vec<(&'static str, Align)> = columns.iter().map(|(name, align, _)| (*name, *align)).collect();
    let mut table = Table::new(&heads);
    for row in rows.iter().take(limit) {
        table.cells(columns.iter().map(|(.., cell)| cell(row).into()).collect());
    }
    let mut out = table.render(color);
    if rows.len() > limit {
        let rest: u64 = rows[limit..].iter().map(|r| r.bytes).sum();
        out.push_str(&format!("and {} more with {}; --all lists them\n", rows.len() - limit, size(rest)));
    }
    out
}

fn changes(sizes: &Sizes, earlier: &Sizes, growth: &Growth, limit: usize, color: bool) -> String {
    let title = format!("since run {}, {}", earlier.run.id, ago(earlier.run.started, now()));
    let mut out = format!("\n{}\n", Paint::Bold.on(color, &title));
    if growth.files.is_empty() {
        out.push_str("  nothing has another size\n");
    } else {
        out.push_str(&format!("  {:>11}  {}\n", signed(growth.total), sizes.root));
    }
    for around in &sizes.around {
        let before = earlier.around.iter().find(|a| a.target == around.target).and_then(|a| a.bytes);
        if let (Some(old), Some(new)) = (before, around.bytes)
            && old != new
        {
            out.push_str(&format!("  {:>11}  {}\n", signed(new as i64 - old as i64), around.target));
        }
    }
    let mut list = |rows: Vec<(i64, String)>| {
        let count = rows.len();
        for (bytes, name) in rows.into_iter().take(limit) {
            out.push_str(&format!("  {:>11}  {name}\n", signed(bytes)));
        }
        if count > limit {
            out.push_str(&format!("  and {} more; --all lists them\n", count - limit));
        }
    };
    list(growth.layers.iter().map(|(name, bytes)| (*bytes, format!("layer {name}"))).collect());
    let package = |(name, old, new, bytes): &(String, Option<String>, Option<String>, i64)| {
        (*bytes, format!("package {name}{}", versions(old, new)))
    };
    list(growth.packages.iter().map(package).collect());
    // What changed most comes first, whichever way.
    let mut files: Vec<_> = growth.files.iter().map(|f| (f.bytes, format!("/{}", f.path))).collect();
    files.sort_by_key(|(bytes, _)| std::cmp::Reverse(bytes.unsigned_abs()));
    list(files);
    out
}
