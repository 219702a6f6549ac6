//! Programs of a tree packed by the host's `upx`, each once, by its digest; and what that is worth: on the file, on the
//! compressed image, in memory. Under xz it is often a loss, which is measured and said.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;

use mosbuild_cache::{Entry, Ingest, Output, OutputKind};
use mosbuild_engine::action::{Builtin, BuiltinCx, Made, OutKind, StepError};
use mosbuild_engine::item::{INPUT_DIR, Item, ItemWork, ToolRun};
use mosbuild_formats::compress::{Compression, Encoder};
use mosbuild_formats::elf::{self, Kind};

use super::elves::{elves, of_kind, replaced};
use super::which::Chosen;
use super::{finished, saved};
use crate::shares::Counter;
use crate::size::human;

/// Smaller programs are left alone: what unpacks them takes some kilobytes itself.
const SMALLEST: u64 = 16 << 10;
/// How the effect on an image is measured: as a cpio is compressed if nothing else is said.
const MEASURE: Compression = Compression::Xz { level: 6 };
/// How many files that were left as they are get named.
const NAMED: usize = 20;
/// The program.
const TOOLS: &[&str] = &["upx"];
/// `packed` is there only if upx could do it and can undo it.
const SCRIPT: &str = r#"upx -q --best --lzma -o "$OUT/packed" "$1" && upx -q -t "$OUT/packed""#;

/// What upx says of a file that it does not take. Anything else is a failure.
const REFUSALS: [(&str, &str); 5] = [
    ("AlreadyPackedException", "it is packed already"),
    ("NotCompressibleException", "upx could not make it smaller"),
    ("CantPackException", "upx cannot pack it"),
    ("UnknownExecutableFormatException", "upx does not know its format"),
    ("OverlayException", "data is appended to it"),
];

/// Input `tree`; params `only` and `exclude` (see [`Chosen`]). Output `tree`, fact `size`.
pub struct Upx;

impl Builtin for Upx {
    fn name(&self) -> &'static str {
        "rootfs-upx"
    }

    fn version(&self) -> u32 {
        1
    }

    fn outputs(&self) -> Vec<(String, OutKind)> {
        vec![("tree".into(), OutKind::Tree)]
    }

    fn tools(&self) -> &'static [&'static str] {
        TOOLS
    }

    fn run(&self, cx: &BuiltinCx<'_>) -> Result<Made, StepError> {
        let tree = cx.tree("tree")?;
        let chosen = Chosen::of(cx)?;
        // Programs have the execute bit. Packed ones open themselves by /proc, which a set-id program should not.
        let wanted =
            |entry: &Entry| entry.mode & 0o111 != 0 && entry.mode & 0o6000 == 0 && chosen.has(&entry.path);
        let found = elves(cx.store, &tree, |entry, size| size >= SMALLEST && wanted(entry))?;
        let found = of_kind(cx.store, found, Kind::Program)?;
        let items: Vec<Item> = found
            .iter()
            .map(|(entry, digest, size)| Item { name: entry.path.to_string(), digest: *digest, size: *size })
            .collect();
        let batch = cx.batch(&PackOne, &items)?;
        (cx.log)(&format!("{} of {} files packed, {} known", batch.ran, items.len(), batch.known));
        let mut effect = Effect::default();
        let mut by = HashMap::new();
        for (item, result) in items.iter().zip(&batch.results) {
            let Some(file) = result.outputs.get("file") else { continue };
            let number = |name: &str| result.facts.get(name).and_then(|v| v.parse().ok()).unwrap_or(0u64);
            match result.facts.get("left") {
                Some(why) => effect.left.push(format!("/{}: {why}", item.name)),
                None if by.contains_key(&item.digest) => effect.again(item.size, file.size),
                None => {
                    effect.add(item.size, file.size, number("memory"), [number("before"), number("after")])
                }
            }
            by.insert(item.digest, (file.digest, file.size));
        }
        if let Some(warning) = effect.warning() {
            (cx.warn)(&warning);
        }
        let notes = effect.notes();
        notes.iter().for_each(|note| (cx.log)(note));
        finished(cx, &replaced(&tree, &by, wanted), notes)
    }
}

/// What packing does, summed up.
#[derive(Default)]
struct Effect {
    packed: usize,
    before: u64,
    after: u64,
    /// Memory that the unpacked programs take beside their files, if all of them run.
    memory: u64,
    /// The files compressed one by one, before and after.
    compressed: [u64; 2],
    left: Vec<String>,
}

impl Effect {
    fn add(&mut self, before: u64, after: u64, memory: u64, compressed: [u64; 2]) {
        self.again(before, after);
        self.memory += memory;
        self.compressed[0] += compressed[0];
        self.compressed[1] += compressed[1];
    }

    /// Another file of the same content: in a compressed image it takes next to nothing.
    fn again(&mut self, before: u64, after: u64) {
        self.packed += 1;
        self.before += before;
        self.after += after;
    }

    fn warning(&self) -> Option<String> {
        let [before, after] = self.compressed;
        (after > before).then(|| {
            format!(
                "upx makes the compressed image larger, by about {}: these programs have {} under xz, and packed {}",
                human(after - before),
                human(before),
                human(after)
            )
        })
    }

    fn notes(self) -> Vec<String> {
        let mut notes =
            vec![format!("upx: {} programs are packed{}", self.packed, saved(self.before, self.after))];
        if self.packed > 0 {
            let [before, after] = self.compressed;
            notes.push(format!(
                "upx: in the compressed image about {} instead of {} (each program alone under xz)",
                human(after),
                human(before)
            ));
            notes.push(format!(
                "upx: in memory {} instead of {} while none runs; each that runs takes its unpacked size beside that, {} if all do",
                human(self.after),
                human(self.before),
                human(self.memory)
            ));
        }
        notes.extend(self.warning().map(|w| format!("warning: {w}")));
        let more = self.left.len().saturating_sub(NAMED);
        notes.extend(self.left.into_iter().take(NAMED).map(|left| format!("upx: left as it is: {left}")));
        if more > 0 {
            notes.push(format!("upx: and {more} more are left as they are"));
        }
        notes
    }
}

/// One program. Output `file`; facts `memory` (bytes of the unpacked image), `before` and `after` (compressed, as
/// [`MEASURE`] does it), or `left`: why it is as it was.
struct PackOne;

impl ItemWork for PackOne {
    fn name(&self) -> &'static str {
        "upx"
    }

    fn version(&self) -> u32 {
        1
    }

    fn tools(&self) -> &'static [&'static str] {
        TOOLS
    }

    fn run(&self, cx: &BuiltinCx<'_>, item: &Item) -> Result<Made, StepError> {
        let bytes = cx.store.read(&item.digest)?;
        if elf::is_appended_to(&bytes).unwrap_or(true) {
            return Ok(left_as_it_is(item, "data is appended to it"));
        }
        let ran = cx.run_tool(&ToolRun {
            tools: TOOLS,
            argv: ["sh", "-euc", SCRIPT, "upx", &format!("{INPUT_DIR}/program")].map(str::to_owned).into(),
            inputs: vec![(item.digest, true, "program".into())],
        })?;
        if ran.answer.code != Some(0) {
            let output = &ran.answer.output;
            return match REFUSALS.iter().find(|(name, _)| output.contains(name)) {
                Some((_, why)) => Ok(left_as_it_is(item, why)),
                None => {
                    let said: Vec<&str> = output.lines().filter(|l| l.starts_with("upx: ")).collect();
                    let said = if said.is_empty() { output.trim().to_owned() } else { said.join("; ") };
                    Err(StepError::new(format!("upx failed: {said}"))
                        .help("leave it out with `upx: {exclude: […]}`"))
                }
            };
        }
        let (digest, size) =
            cx.store.put_file(&ran.out.join("packed"), Ingest::Link { executable: false })?;
        if size >= item.size {
            return Ok(left_as_it_is(item, "upx could not make it smaller"));
        }
        let file = Output { kind: OutputKind::File { executable: false }, digest, size };
        let memory = elf::loaded_bytes(&bytes).unwrap_or(item.size);
        let after = compressed(&cx.store.read(&digest)?)?;
        let facts = [("memory", memory), ("before", compressed(&bytes)?), ("after", after)];
        Ok(Made {
            outputs: BTreeMap::from([("file".to_owned(), file)]),
            facts: facts.map(|(name, n)| (name.to_owned(), n.to_string())).into(),
            notes: Vec::new(),
        })
    }
}

fn left_as_it_is(item: &Item, why: &str) -> Made {
    let kind = OutputKind::File { executable: false };
    let file = Output { kind, digest: item.digest, size: item.size };
    Made {
        outputs: BTreeMap::from([("file".to_owned(), file)]),
        facts: BTreeMap::from([("left".to_owned(), why.to_owned())]),
        notes: Vec::new(),
    }
}

/// Bytes that these have under xz.
fn compressed(bytes: &[u8]) -> Result<u64, StepError> {
    let failed = |e: &dyn std::fmt::Display| StepError::new(format!("its compressed size: {e}"));
    let mut encoder = Encoder::new(Counter(0), MEASURE, 1).map_err(|e| failed(&e))?;
    encoder.write_all(bytes)?;
    Ok(encoder.finish().map_err(|e| failed(&e))?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_a_warning_and_a_gain_is_none() {
        let mut effect = Effect::default();
        effect.add(100_000, 40_000, 150_000, [30_000, 39_000]);
        effect.again(100_000, 40_000);
        assert_eq!(
            effect.warning().unwrap(),
            "upx makes the compressed image larger, by about 8.8 KiB: these programs have 29.3 KiB under xz, and packed 38.1 KiB"
        );
        let notes = effect.notes();
        assert_eq!(notes[0], "upx: 2 programs are packed: 195.3 KiB → 78.1 KiB");
        assert!(notes[2].contains("146.5 KiB if all do"), "{notes:?}");
        let mut effect = Effect::default();
        effect.add(100_000, 29_000, 150_000, [30_000, 29_000]);
        assert_eq!(effect.warning(), None);
    }
}
