//! The sizes of an image as a page for a browser: complete in itself, without scripts and without anything from elsewhere.

use std::fmt::Write;

use mosbuild_rules::contents::{Growth, signed, versions};

use super::treemap::{self, Rect};
use super::{Row, Rows, Sizes};
use crate::format::{count, size, utc};

/// Rows of files; there may be thousands.
const FILES: usize = 200;
/// Rows of a list of changes.
const CHANGES: usize = 60;
/// The map, in the units of its drawing.
const MAP: Rect = Rect { x: 0.0, y: 0.0, w: 1160.0, h: 560.0 };
/// Height of a layer's name above its files.
const TITLE: f64 = 18.0;
/// A file that would be smaller is drawn with others as one.
const SMALLEST: f64 = 60.0;

const STYLE: &str = r#"
:root { --ink: #1d2430; --dim: #5c6675; --paper: #ffffff; --card: #f4f6f9; --line: #dde2ea; --bar: #3b76c4; --less: #2f8f5b; --more: #c4583b; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ef; --dim: #98a2b3; --paper: #14181f; --card: #1d232d; --line: #2d3644; --bar: #5b95e0; --less: #4db57f; --more: #e07a5b; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1208px; padding: 24px; background: var(--paper); color: var(--ink); font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 24px; margin: 0; } h2 { font-size: 17px; margin: 34px 0 10px; }
p { margin: 4px 0; color: var(--dim); }
.cards { display: flex; flex-wrap: wrap; gap: 12px; margin: 20px 0; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 12px 16px; min-width: 170px; }
.card b { display: block; font-size: 22px; font-weight: 600; } .card span { color: var(--dim); font-size: 13px; }
table { border-collapse: collapse; width: 100%; }
th { text-align: left; font-weight: 600; color: var(--dim); font-size: 13px; }
th, td { padding: 4px 10px 4px 0; border-bottom: 1px solid var(--line); vertical-align: middle; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.b { width: 30%; padding-right: 0; }
td.name { overflow-wrap: anywhere; }
.bar { height: 12px; border-radius: 3px; background: var(--bar); min-width: 1px; }
.bar.packed { background: var(--less); } .bar.more { background: var(--more); } .bar.less { background: var(--less); }
.key { display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin-right: 6px; }
svg { width: 100%; height: auto; display: block; border-radius: 8px; }
svg text { font: 11px system-ui, sans-serif; fill: #10141b; pointer-events: none; } svg text.layer { font-weight: 600; font-size: 12px; }
details summary { cursor: pointer; color: var(--dim); padding: 6px 0; }
"#;

/// The page.
pub fn page(
    asked: &str,
    project: &str,
    sizes: &Sizes,
    rows: &Rows,
    against: Option<(&Sizes, &Growth)>,
) -> String {
    let title = match project.is_empty() {
        true => format!("{asked}: sizes"),
        false => format!("{project} {asked}: sizes"),
    };
    let title = escape(&title);
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n\
         <style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n<p>{} as run {} left it, {} UTC</p>\n",
        escape(&sizes.root),
        escape(&sizes.run.id),
        utc(sizes.run.started),
    );
    out.push_str(&cards(sizes));
    out.push_str(&stages(sizes));
    out.push_str(&map(rows));
    let share = match sizes.archive().is_some_and(|a| a.bytes.is_some()) {
        true => "in the archive, about",
        false => "compressed, about",
    };
    if !rows.layers.is_empty() {
        out.push_str(&section("Layers", &table(&rows.layers, Kind::Layer, share)));
    }
    if !rows.packages.is_empty() {
        out.push_str(&section("Packages", &table(&rows.packages, Kind::Package, share)));
    }
    let largest = &rows.files[..rows.files.len().min(FILES)];
    let title = match rows.files.len() > FILES {
        true => format!("The {FILES} largest of {} files", rows.files.len()),
        false => "Files".to_owned(),
    };
    let files =
        format!("<details open><summary>{title}</summary>{}</details>\n", table(largest, Kind::File, share));
    out.push_str(&section("Files", &files));
    out.push_str(
        "<p>An archive is one stream, which has no exact shares: each layer was compressed alone, quickly, and scaled.</p>\n",
    );
    if let Some((earlier, growth)) = against {
        out.push_str(&changes(sizes, earlier, growth));
    }
    out.push_str("</body>\n</html>\n");
    out
}

fn section(title: &str, body: &str) -> String {
    format!("<h2>{}</h2>\n{body}", escape(title))
}

fn cards(sizes: &Sizes) -> String {
    let mut cards = Vec::new();
    if let Some(last) = sizes.stages.last() {
        cards.push((size(last.bytes), format!("{} unpacked, {}", sizes.root, count(last.files, "file"))));
    }
    for around in &sizes.around {
        if let Some(bytes) = around.bytes {
            let what = match &around.compress {
                Some((format, level)) if format != "none" => format!("{}, {format} -{level}", around.target),
                _ => around.target.clone(),
            };
            cards.push((size(bytes), what));
        }
    }
    if let Some(forecast) = sizes.archive().and_then(|a| a.forecast) {
        cards.push((size(forecast.ram()), "of memory at least, beside the kernel's own".into()));
    }
    let card = |(bytes, what): &(String, String)| {
        format!("<div class=\"card\"><b>{}</b><span>{}</span></div>\n", escape(bytes), escape(what))
    };
    format!("<div class=\"cards\">\n{}</div>\n", cards.iter().map(card).collect::<String>())
}

fn stages(sizes: &Sizes) -> String {
    let mut bars: Vec<(String, u64, &str)> =
        sizes.stages.iter().map(|s| (s.step.clone(), s.bytes, "")).collect();
    for around in &sizes.around {
        bars.extend(around.bytes.map(|bytes| (around.target.clone(), bytes, "packed")));
    }
    let most = bars.iter().map(|(_, bytes, _)| *bytes).max().unwrap_or(0);
    let row = |(name, bytes, class): &(String, u64, &str)| {
        format!(
            "<tr><td>{}</td><td class=\"n\">{}</td><td class=\"b\" style=\"width:70%\">{}</td></tr>\n",
            escape(name),
            size(*bytes),
            bar(*bytes, most, class)
        )
    };
    section("On its way", &format!("<table>\n{}</table>\n", bars.iter().map(row).collect::<String>()))
}

fn bar(bytes: u64, most: u64, class: &str) -> String {
    let percent = if most == 0 { 0.0 } else { bytes as f64 * 100.0 / most as f64 };
    format!("<div class=\"bar {class}\" style=\"width:{percent:.2}%\"></div>")
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Layer,
    Package,
    File,
}

fn table(rows: &[Row], kind: Kind, share: &str) -> String {
    let heads = match kind {
        Kind::Layer => "<th>layer</th><th class=\"n\">files</th><th class=\"n\">merged</th>",
        Kind::Package => "<th>package</th><th>version</th><th class=\"n\">files</th>",
        Kind::File => "<th>file</th><th>layer</th><th>package</th>",
    };
    let mut out =
        format!("<table>\n<tr>{heads}<th class=\"n\">size</th><th class=\"n\">{share}</th><th></th></tr>\n");
    let most = rows.iter().map(|r| r.bytes).max().unwrap_or(0);
    for (at, row) in rows.iter().enumerate() {
        let name = escape(&row.name);
        let cells = match kind {
            Kind::Layer => format!(
                "<td class=\"name\"><span class=\"key\" style=\"background:{}\"></span>{name}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>",
                color(at),
                row.files,
                size(row.before)
            ),
            Kind::Package => format!(
                "<td class=\"name\">{name}</td><td>{}</td><td class=\"n\">{}</td>",
                escape(&row.of),
                row.files
            ),
            Kind::File => format!(
                "<td class=\"name\">/{name}</td><td>{}</td><td>{}</td>",
                escape(&row.of),
                escape(&row.package)
            ),
        };
        let _ = writeln!(
            out,
            "<tr>{cells}<td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"b\">{}</td></tr>",
            size(row.bytes),
            size(row.share),
            bar(row.bytes, most, "")
        );
    }
    out.push_str("</table>\n");
    out
}

/// Files as areas, by layer. The colours are those of the layers' table.
fn map(rows: &Rows) -> String {
    let total: u64 = rows.files.iter().map(|f| f.bytes).sum();
    if total == 0 {
        return String::new();
    }
    let unnamed = [Row { bytes: total, ..Row::default() }];
    let layers = if rows.layers.is_empty() { &unnamed[..] } else { &rows.layers };
    let areas: Vec<f64> = layers.iter().map(|l| l.bytes as f64).collect();
    let mut out =
        format!("<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"files by size\">\n", MAP.w, MAP.h);
    for (at, (layer, rect)) in layers.iter().zip(treemap::squarified(&areas, MAP)).enumerate() {
        let files: Vec<&Row> =
            rows.files.iter().filter(|f| layer.name.is_empty() || f.of == layer.name).collect();
        out.push_str(&one_layer(layer, &files, rect, color(at)));
    }
    out.push_str("</svg>\n");
    section("What takes the room", &out)
}

fn one_layer(layer: &Row, files: &[&Row], rect: Rect, fill: &str) -> String {
    let about = format!("{}: {}", layer.name, size(layer.bytes));
    let mut out = drawn(rect, fill, 0.45, &about);
    let titled = rect.h > 3.0 * TITLE && rect.w > 60.0 && !layer.name.is_empty();
    let top = if titled { TITLE } else { 0.0 };
    if titled {
        out.push_str(&label(rect, &about, "layer"));
    }
    let inner = Rect { x: rect.x + 1.0, y: rect.y + top, w: rect.w - 2.0, h: rect.h - top - 1.0 };
    if inner.w <= 0.0 || inner.h <= 0.0 || layer.bytes == 0 {
        return out;
    }
    // The smallest files as one.
    let scale = inner.w * inner.h / layer.bytes as f64;
    let shown = files.iter().take_while(|f| f.bytes as f64 * scale >= SMALLEST).count();
    let rest: u64 = files[shown..].iter().map(|f| f.bytes).sum();
    let mut areas: Vec<f64> = files[..shown].iter().map(|f| f.bytes as f64).collect();
    if rest > 0 {
        areas.push(rest as f64);
    }
    for (at, rect) in treemap::squarified(&areas, inner).into_iter().enumerate() {
        let (name, about) = match files.get(at).filter(|_| at < shown) {
            Some(file) => {
                let name = file.name.rsplit('/').next().unwrap_or_default();
                let about =
                    format!("/{}: {}, compressed about {}", file.name, size(file.bytes), size(file.share));
                (name.to_owned(), about)
            }
            None => {
                let more = count(files.len() - shown, "smaller file");
                (more.clone(), format!("{more}: {}", size(rest)))
            }
        };
        out.push_str(&drawn(rect, fill, 1.0, &about));
        if rect.h > 15.0 && rect.w > 34.0 {
            out.push_str(&label(rect, &name, ""));
        }
    }
    out
}

fn drawn(rect: Rect, fill: &str, opacity: f64, about: &str) -> String {
    format!(
        "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{fill}\" fill-opacity=\"{opacity}\" \
         stroke=\"var(--paper)\" stroke-width=\"1\"><title>{}</title></rect>\n",
        rect.x,
        rect.y,
        rect.w,
        rect.h,
        escape(about)
    )
}

/// As much of a text as there is room for; a letter is some six units wide.
fn label(rect: Rect, text: &str, class: &str) -> String {
    let room = ((rect.w - 8.0) / 6.2) as usize;
    let text = crate::format::cut(text, room);
    format!(
        "<text class=\"{class}\" x=\"{:.1}\" y=\"{:.1}\">{}</text>\n",
        rect.x + 4.0,
        rect.y + 13.0,
        escape(&text)
    )
}

/// Told apart in both colour schemes, black letters readable on all of them.
fn color(at: usize) -> &'static str {
    const COLORS: [&str; 10] = [
        "#7fb2e5", "#f0b46a", "#8fcf9f", "#e39a93", "#b9a3e3", "#e3cf6f", "#7fcfcf", "#e0a3c8", "#b8c77a",
        "#c2b2a0",
    ];
    COLORS[at % COLORS.len()]
}

fn changes(sizes: &Sizes, earlier: &Sizes, growth: &Growth) -> String {
    let mut rows: Vec<(i64, String)> = vec![(growth.total, format!("{} unpacked", sizes.root))];
    for around in &sizes.around {
        let then = earlier.around.iter().find(|a| a.target == around.target).and_then(|a| a.bytes);
        if let (Some(old), Some(new)) = (then, around.bytes) {
            rows.push((new as i64 - old as i64, around.target.clone()));
        }
    }
    rows.extend(growth.layers.iter().map(|(name, bytes)| (*bytes, format!("layer {name}"))));
    rows.extend(
        growth
            .packages
            .iter()
            .map(|(n, old, new, bytes)| (*bytes, format!("package {n}{}", versions(old, new)))),
    );
    let mut files: Vec<(i64, String)> =
        growth.files.iter().map(|f| (f.bytes, format!("/{}", f.path))).collect();
    files.sort_by_key(|(bytes, _)| std::cmp::Reverse(bytes.unsigned_abs()));
    files.truncate(CHANGES);
    rows.extend(files);
    let most = rows.iter().map(|(bytes, _)| bytes.unsigned_abs()).max().unwrap_or(0);
    let row = |(bytes, name): &(i64, String)| {
        format!(
            "<tr><td class=\"name\">{}</td><td class=\"n\">{}</td><td class=\"b\">{}</td></tr>\n",
            escape(name),
            signed(*bytes),
            bar(bytes.unsigned_abs(), most, if *bytes > 0 { "more" } else { "less" })
        )
    };
    let table = format!("<table>\n{}</table>\n", rows.iter().map(row).collect::<String>());
    section(&format!("Since run {}", earlier.run.id), &table)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_their_place() {
        let rows = [Row { name: "<b>\"&".into(), bytes: 10, files: 1, ..Row::default() }];
        let html = table(&rows, Kind::File, "share");
        assert!(html.contains("/&lt;b&gt;&quot;&amp;") && !html.contains("<b>"), "{html}");
    }

    #[test]
    fn a_map_draws_every_layer_and_sums_up_small_files() {
        let file =
            |name: &str, of: &str, bytes| Row { name: name.into(), of: of.into(), bytes, ..Row::default() };
        let layer = |name: &str, bytes| Row { name: name.into(), bytes, ..Row::default() };
        let mut files = vec![file("a/large", "one", 1_000_000), file("b", "two", 500_000)];
        files.extend((0..50).map(|n| file(&format!("c/{n}"), "one", 3)));
        let rows = Rows {
            layers: vec![layer("one", 1_000_150), layer("two", 500_000)],
            packages: Vec::new(),
            files,
        };
        let svg = map(&rows);
        assert!(svg.contains("<title>/a/large: 976.6 KiB, compressed about 0 B</title>"), "{svg}");
        assert!(svg.contains("50 smaller files: 150 B"), "{svg}");
        assert_eq!(svg.matches("<rect").count(), 2 + 3);
        assert_eq!(map(&Rows { layers: Vec::new(), packages: Vec::new(), files: Vec::new() }), "");
    }
}
