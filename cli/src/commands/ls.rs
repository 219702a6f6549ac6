//! `mosbuild ls`: the entries of an output, an archive or an image.

use clap::Args;
use mosbuild_rules::inspect::{Items, Kind, tidy};
use serde_json::json;

use crate::args::{GlobalArgs, StoreArgs};
use crate::failure::Failure;
use crate::format::size;
use crate::inspect::{Desk, Subject, entry_json, escaped, long};
use crate::table::{Align, Table};
use crate::ui::Ui;

/// Arguments of `ls`.
#[derive(Args, Debug)]
pub struct LsArgs {
    /// TARGET, TARGET:OUTPUT, TARGET:OUTPUT/PATH, or a file: a cpio or tar archive, an flist, or an image with an initramfs inside
    #[arg(value_name = "WHAT")]
    what: String,
    /// Only this entry, and what lies below it
    #[arg(value_name = "PATH")]
    path: Option<String>,
    /// With mode, owner, size and, where there is one, time
    #[arg(short = 'l')]
    long: bool,
    /// As this run left it, instead of the newest that made it
    #[arg(long, value_name = "RUN")]
    run: Option<String>,
    /// One JSON object for programs
    #[arg(long)]
    json: bool,
    /// A folder with the blocks of an flist, a `dir://` store, beside those that it names
    #[arg(long, value_name = "DIR")]
    blocks: Vec<std::path::PathBuf>,
    #[command(flatten)]
    store: StoreArgs,
}

/// Lists.
pub fn run(ui: &Ui, global: &GlobalArgs, args: &LsArgs) -> Result<u8, Failure> {
    let mut desk = Desk::open(ui, global, &args.store)?;
    desk.blocks = args.blocks.clone();
    let subject = desk.subject(&args.what, args.run.as_deref())?;
    let mut items = match args.json {
        true => subject.items()?,
        false => subject.listing()?,
    };
    if let Some(path) = args.path.as_deref().or(subject.below.as_deref()) {
        items = below(items, path, &subject)?;
    }
    if args.json {
        return ui.json(&object(&subject, &items)).map(|()| 0);
    }
    if !args.long {
        let lines: String = items.keys().map(|path| escaped(path) + "\n").collect();
        return ui.out(&lines).map(|()| 0);
    }
    if !subject.hulls.is_empty() {
        let hull = |h: &mosbuild_rules::inspect::Hull| match h.packing {
            "none" => format!("{}, {}", h.what, size(h.size)),
            packing => format!("{} by {packing}, {}", h.what, size(h.size)),
        };
        ui.note(&subject.hulls.iter().map(hull).collect::<Vec<_>>().join(" > "));
    }
    let mut columns =
        vec![("", Align::Left), ("", Align::Left), ("", Align::Right), ("", Align::Left), ("", Align::Left)];
    let timed = items.values().any(|i| i.mtime.is_some());
    if !timed {
        columns.remove(3);
    }
    let mut table = Table::new(&columns);
    for (path, item) in &items {
        let mut cells: Vec<_> = long(path, item).into_iter().map(Into::into).collect();
        if !timed {
            cells.remove(3);
        }
        table.cells(cells);
    }
    // The columns need no headings.
    ui.out(table.render(false).trim_start_matches('\n'))?;
    Ok(0)
}

/// The entry of a path, and those below it.
fn below(items: Items, path: &str, subject: &Subject) -> Result<Items, Failure> {
    let path = tidy(path.as_bytes());
    if path == b"." {
        return Ok(items);
    }
    let inside = |p: &[u8]| p.strip_prefix(path.as_slice()).is_some_and(|r| r.is_empty() || r[0] == b'/');
    let found: Items = items.into_iter().filter(|(p, _)| inside(p)).collect();
    match found.is_empty() {
        true => Err(Failure::usage(format!("{} has no {}", subject.label, escaped(&path)))
            .help(format!("`mosbuild ls {}` lists what it has", subject.label))),
        false => Ok(found),
    }
}

fn object(subject: &Subject, items: &Items) -> serde_json::Value {
    let hull = |h: &mosbuild_rules::inspect::Hull| json!({"what": h.what, "compression": h.packing, "bytes": h.size});
    let files = items.values().filter(|i| matches!(i.kind, Kind::File { .. })).count();
    json!({
        "schema": "mosbuild.ls/1",
        "what": subject.label,
        "target": subject.origin.as_ref().map(|o| &o.target),
        "output": subject.origin.as_ref().map(|o| &o.output),
        "run": subject.origin.as_ref().map(|o| &o.run),
        "blake3": subject.digest.hex(),
        "bytes": subject.size,
        "around": subject.hulls.iter().map(hull).collect::<Vec<_>>(),
        "files": files,
        "entries": items.iter().map(|(path, item)| entry_json(path, item)).collect::<Vec<_>>(),
    })
}
