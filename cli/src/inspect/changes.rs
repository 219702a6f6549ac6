//! Two outputs or files compared by entry, each difference with its cause; as text and as JSON. Runs nothing.

use std::collections::BTreeMap;

use mosbuild_engine::why::{Cause, cause_line};
use mosbuild_rules::contents::signed;
use mosbuild_rules::inspect::{self, Change, Item, Kind, text_diff};
use serde_json::{Value, json};

use super::causes::{Causes, From, Sources};
use super::{Desk, Subject, entry_json, escaped};
use crate::failure::Failure;
use crate::format::{count, size};
use crate::ui::Paint;

/// Texts of more bytes are not compared by line.
const TEXT_MAX: u64 = 64 << 10;
/// Lines of one text's difference before the rest is only counted.
const LINES: usize = 60;
/// Causes of one file before the rest is only counted.
const CAUSES: usize = 3;

/// One entry that differs.
pub struct Difference {
    change: Change,
    from: From,
    causes: Vec<Cause>,
    /// Of two texts.
    text: Option<String>,
}

/// What differs between two things.
pub struct Comparison {
    old: String,
    new: String,
    /// Name of the file that causes' lines are of.
    file: String,
    differences: Vec<Difference>,
    /// What differs around the entries, where these are equal.
    around: Vec<String>,
    causes: Vec<Cause>,
    explained: bool,
}

fn label(subject: &Subject) -> String {
    match &subject.origin {
        Some(origin) => format!("{}, run {}", subject.label, origin.run),
        None => subject.label.clone(),
    }
}

/// Compares. Texts are compared by line if `with_text`.
pub fn compare(desk: &Desk, old: &Subject, new: &Subject, with_text: bool) -> Result<Comparison, Failure> {
    let file = desk.workspace.as_ref().map(|(_, loaded)| loaded.file_name()).unwrap_or_default();
    let mut causes = Causes::between(desk, old.origin.as_ref(), new.origin.as_ref());
    let mut comparison = Comparison {
        old: label(old),
        new: label(new),
        file,
        differences: Vec::new(),
        around: Vec::new(),
        causes: Vec::new(),
        explained: causes.is_some(),
    };
    if old.digest == new.digest {
        return Ok(comparison);
    }
    if old.held.is_none() && new.held.is_none() {
        comparison.around.push(format!("{} → {}", size(old.size), size(new.size)));
        let text = old.bytes().zip(new.bytes()).filter(|(a, b)| a.len().max(b.len()) as u64 <= TEXT_MAX);
        let text = text.filter(|_| with_text).and_then(|(old, new)| text_diff(old, new));
        comparison.around.extend(text.into_iter().flat_map(|t| shortened(&t)));
        comparison.causes = causes.as_mut().map(Causes::of_all).unwrap_or_default();
        return Ok(comparison);
    }
    // Two flists are compared without a look at a block.
    let changes = match old.is_flist() && new.is_flist() {
        true => inspect::compare(&old.listing()?, &new.listing()?),
        false => inspect::compare(&old.items()?, &new.items()?),
    };
    let texts = match with_text {
        true => texts(&changes, old, new)?,
        false => BTreeMap::new(),
    };
    let (before, after) = (Sources::of(desk, old.origin.as_ref()), Sources::of(desk, new.origin.as_ref()));
    for change in changes {
        // Of what is gone, where it was.
        let from = if change.new.is_some() { after.from(&change.path) } else { before.from(&change.path) };
        let causes = causes.as_mut().map(|c| c.of(&change.path, &from)).unwrap_or_default();
        let text = texts.get(&change.path).cloned();
        comparison.differences.push(Difference { change, from, causes, text });
    }
    if comparison.differences.is_empty() {
        comparison.around = around(old, new);
        comparison.causes = causes.as_mut().map(Causes::of_all).unwrap_or_default();
    }
    Ok(comparison)
}

/// The difference of each pair of small texts.
fn texts(changes: &[Change], old: &Subject, new: &Subject) -> Result<BTreeMap<Vec<u8>, String>, Failure> {
    let small = |item: &Option<Item>| match item.as_ref().map(|i| &i.kind) {
        Some(Kind::File { digest, size }) if *size <= TEXT_MAX => Some(*digest),
        _ => None,
    };
    let pair = |c: &&Change| small(&c.old).zip(small(&c.new)).is_some_and(|(old, new)| old != new);
    let wanted: std::collections::HashSet<&[u8]> =
        changes.iter().filter(pair).map(|c| c.path.as_slice()).collect();
    if wanted.is_empty() {
        return Ok(BTreeMap::new());
    }
    let contents = |subject: &Subject| match &subject.held {
        Some(held) => held.contents(&|path| wanted.contains(path)).map_err(|e| subject.fails(&e)),
        None => Ok(BTreeMap::new()),
    };
    let (old, mut new) = (contents(old)?, contents(new)?);
    let both = old.into_iter().filter_map(|(path, old)| Some((old, new.remove(&path)?, path)));
    Ok(both.filter_map(|(old, new, path)| Some((path, text_diff(&old, &new)?))).collect())
}

/// What is around equal entries and differs.
fn around(old: &Subject, new: &Subject) -> Vec<String> {
    let mut lines = Vec::new();
    for (a, b) in old.hulls.iter().zip(&new.hulls) {
        let inside = if a.what == "vmlinux" { ", outside of its initramfs" } else { "" };
        if (a.what, a.packing) != (b.what, b.packing) {
            lines.push(format!("{} by {} → {} by {}", a.what, a.packing, b.what, b.packing));
        } else if a.size != b.size {
            lines.push(format!("{}{inside}: {} B → {} B", a.what, a.size, b.size));
        } else if a.digest != b.digest {
            lines.push(format!("{}{inside}: other bytes, as many", a.what));
        }
    }
    if old.hulls.len() != new.hulls.len() {
        let names = |s: &Subject| match s.hulls.is_empty() {
            true => "a tree".to_owned(),
            false => s.hulls.iter().map(|h| h.what).collect::<Vec<_>>().join(", "),
        };
        lines.push(format!("{} → {}", names(old), names(new)));
    }
    lines
}

fn shortened(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = text.lines().take(LINES).map(str::to_owned).collect();
    let more = text.lines().count().saturating_sub(LINES);
    if more > 0 {
        lines.push(format!("and {}", count(more, "line")));
    }
    lines
}

/// What is other about an entry, in words.
fn aspects(change: &Change) -> Vec<String> {
    let bytes = |item: &Item| match item.kind {
        Kind::File { size: bytes, .. } => Some(bytes),
        _ => None,
    };
    let (Some(old), Some(new)) = (&change.old, &change.new) else {
        let item = change.old.as_ref().or(change.new.as_ref());
        let kind = item.map(|i| match bytes(i) {
            Some(bytes) => size(bytes),
            None => i.kind.name().to_owned(),
        });
        return kind.into_iter().collect();
    };
    let mut all = Vec::new();
    match (&old.kind, &new.kind) {
        (Kind::File { digest: a, size: old }, Kind::File { digest: b, size: new }) if a != b => {
            all.push(if old == new {
                format!("{old} B, other content")
            } else {
                format!("{old} B → {new} B")
            });
        }
        (Kind::Symlink { target: a }, Kind::Symlink { target: b }) if a != b => {
            all.push(format!("link {} → {}", escaped(a), escaped(b)));
        }
        (
            Kind::Char { major: a, minor: b } | Kind::Block { major: a, minor: b },
            Kind::Char { major: c, minor: d } | Kind::Block { major: c, minor: d },
        ) if (a, b) != (c, d) => all.push(format!("device {a},{b} → {c},{d}")),
        _ => {}
    }
    if old.kind.name() != new.kind.name() {
        all.push(format!("type {} → {}", old.kind.name(), new.kind.name()));
    }
    if old.mode != new.mode {
        all.push(format!("mode {:04o} → {:04o}", old.mode, new.mode));
    }
    if (old.uid, old.gid) != (new.uid, new.gid) {
        all.push(format!("owner {}:{} → {}:{}", old.uid, old.gid, new.uid, new.gid));
    }
    if old.xattrs != new.xattrs {
        all.push("extended attributes".into());
    }
    all
}

fn word(change: &Change) -> &'static str {
    match (&change.old, &change.new) {
        (None, _) => "added",
        (_, None) => "removed",
        _ => "changed",
    }
}

impl From {
    fn text(&self) -> String {
        let layer = self.layer.as_ref().map(|layer| format!("layer {layer}"));
        let package = self.package.as_ref().map(|(name, version)| format!("package {name} {version}"));
        let parts: Vec<String> = [layer, package].into_iter().flatten().collect();
        if parts.is_empty() { String::new() } else { format!("  ({})", parts.join(", ")) }
    }
}

impl Comparison {
    /// Whether nothing differs.
    pub fn same(&self) -> bool {
        self.differences.is_empty() && self.around.is_empty()
    }

    /// As people read it; nothing where nothing differs. With `all`, every cause.
    pub fn text(&self, color: bool, all: bool) -> String {
        if self.same() {
            return String::new();
        }
        let mut out = format!("--- {}\n+++ {}\n", self.old, self.new);
        for d in &self.differences {
            let word = word(&d.change);
            let paint = match word {
                "added" => Paint::Green,
                "removed" => Paint::Red,
                _ => Paint::Yellow,
            };
            let head = paint.on(color, &format!("{word:7}"));
            let path = escaped(&d.change.path);
            let aspects = aspects(&d.change).join(", ");
            out.push_str(&format!("{head}  /{path}  {aspects}{}\n", d.from.text()));
            self.because(&d.causes, all, &mut out);
            for line in d.text.iter().flat_map(|t| shortened(t)) {
                out.push_str(&format!("    {}\n", painted(color, &line)));
            }
        }
        for line in &self.around {
            out.push_str(&format!("{}\n", painted(color, line)));
        }
        self.because(&self.causes, all, &mut out);
        if !self.differences.is_empty() {
            let of = |w| self.differences.iter().filter(|d| word(&d.change) == w).count();
            let (added, removed, changed) = (of("added"), of("removed"), of("changed"));
            out.push_str(&format!(
                "{added} added, {removed} removed, {changed} changed; {}\n",
                signed(self.bytes())
            ));
        }
        out
    }

    fn because(&self, causes: &[Cause], all: bool, out: &mut String) {
        let shown = if all { usize::MAX } else { CAUSES };
        for cause in causes.iter().take(shown) {
            out.push_str(&format!("    because {}\n", cause_line(cause, &self.file)));
        }
        if causes.len() > shown {
            out.push_str(&format!("    and {} more; --all lists them\n", causes.len() - shown));
        }
    }

    /// Bytes of files more.
    fn bytes(&self) -> i64 {
        let size = |item: &Option<Item>| match item.as_ref().map(|i| &i.kind) {
            Some(Kind::File { size, .. }) => *size as i64,
            _ => 0,
        };
        self.differences.iter().map(|d| size(&d.change.new) - size(&d.change.old)).sum()
    }

    /// For programs. `causes` is null where the two are not one output of two runs.
    pub fn object(&self) -> Value {
        let causes = |causes: &Vec<Cause>| if self.explained { json!(causes) } else { Value::Null };
        let side = |d: &Difference, item: &Option<Item>| item.as_ref().map(|i| entry_json(&d.change.path, i));
        let one = |d: &Difference| {
            json!({
                "path": String::from_utf8_lossy(&d.change.path),
                "change": word(&d.change),
                "old": side(d, &d.change.old),
                "new": side(d, &d.change.new),
                "layer": d.from.layer,
                "package": d.from.package.as_ref().map(|(name, _)| name),
                "version": d.from.package.as_ref().map(|(_, version)| version),
                "causes": causes(&d.causes),
                "text": d.text,
            })
        };
        json!({
            "schema": "mosbuild.diff/1",
            "old": self.old,
            "new": self.new,
            "same": self.same(),
            "bytes": self.bytes(),
            "differences": self.differences.iter().map(one).collect::<Vec<_>>(),
            "around": self.around,
            "causes": causes(&self.causes),
        })
    }
}

fn painted(color: bool, line: &str) -> String {
    let line = escaped_line(line);
    match line.as_bytes().first() {
        Some(b'+') => Paint::Green.on(color, &line),
        Some(b'-') => Paint::Red.on(color, &line),
        Some(b'@') => Paint::Cyan.on(color, &line),
        _ => line,
    }
}

/// A line of a file as it may be drawn; tabs stay.
fn escaped_line(line: &str) -> String {
    let plain = |c: char| if c.is_control() && c != '\t' { '\u{fffd}' } else { c };
    line.chars().map(plain).collect()
}
