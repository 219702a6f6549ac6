//! The sizes of an image as one JSON object for programs.

use mosbuild_rules::contents::Growth;
use serde_json::{Value, json};

use super::{Around, NONE, Row, Rows, Sizes};

/// All of it, every file included. `share` is an estimate.
pub fn object(asked: &str, sizes: &Sizes, rows: &Rows, against: Option<(&Sizes, &Growth)>) -> Value {
    let stage = |s: &super::Stage| json!({"step": s.step, "files": s.files, "bytes": s.bytes});
    json!({
        "schema": "mosbuild.size/1",
        "target": asked,
        "root": sizes.root,
        "run": sizes.run.id,
        "stages": sizes.stages.iter().map(stage).collect::<Vec<_>>(),
        "around": sizes.around.iter().map(around).collect::<Vec<_>>(),
        "layers": rows.layers.iter().map(layer).collect::<Vec<_>>(),
        "packages": rows.packages.iter().map(package).collect::<Vec<_>>(),
        "files": rows.files.iter().map(file).collect::<Vec<_>>(),
        "against": against.map(|(earlier, growth)| changes(sizes, earlier, growth)),
    })
}

fn around(a: &Around) -> Value {
    json!({
        "target": a.target,
        "rule": a.rule,
        "bytes": a.bytes,
        "format": a.compress.as_ref().map(|(format, _)| format),
        "level": a.compress.as_ref().and_then(|(_, level)| level.parse::<u64>().ok()),
        "memory": a.forecast.map(|f| json!({
            "ram": f.ram(),
            "unpacked": f.unpacked,
            "entries": f.entries,
            "packed": f.packed,
        })),
    })
}

/// A name, or null for what is of no layer or package.
fn named(name: &str) -> Option<&str> {
    (name != NONE).then_some(name)
}

fn layer(row: &Row) -> Value {
    json!({
        "name": named(&row.name),
        "files": row.files,
        "merged_bytes": row.before,
        "bytes": row.bytes,
        "share": row.share,
    })
}

fn package(row: &Row) -> Value {
    let mut object = layer(row);
    object["version"] = json!(row.of);
    object
}

fn file(row: &Row) -> Value {
    json!({
        "path": row.name,
        "layer": named(&row.of),
        "package": (!row.package.is_empty()).then_some(&row.package),
        "merged_bytes": row.before,
        "bytes": row.bytes,
        "share": row.share,
    })
}

fn changes(sizes: &Sizes, earlier: &Sizes, growth: &Growth) -> Value {
    let around: Vec<Value> = sizes
        .around
        .iter()
        .map(|now| {
            let then = earlier.around.iter().find(|a| a.target == now.target).and_then(|a| a.bytes);
            let bytes = then.zip(now.bytes).map(|(old, new)| new as i64 - old as i64);
            json!({"target": now.target, "bytes": bytes})
        })
        .collect();
    let packages = growth
        .packages
        .iter()
        .map(|(name, old, new, bytes)| json!({"name": name, "from": old, "to": new, "bytes": bytes}));
    json!({
        "run": earlier.run.id,
        "bytes": growth.total,
        "around": around,
        "layers": growth.layers.iter().map(|(n, b)| json!({"name": n, "bytes": b})).collect::<Vec<_>>(),
        "packages": packages.collect::<Vec<_>>(),
        "files": growth.files.iter().map(|f| json!({
            "path": f.path.to_string(),
            "layer": f.layer,
            "package": f.package.as_ref().map(|(name, ..)| name),
            "bytes": f.bytes,
        })).collect::<Vec<_>>(),
    })
}
