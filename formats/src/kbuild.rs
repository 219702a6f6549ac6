//! Which modules a kernel's source can make, and by which symbols, as its Makefiles say: what a `.config` will not
//! give is told before anything is compiled. Evaluates no make: what it does not understand it takes for possible,
//! so that a module which would be built is never said to be missing. Knows no files, only their text.

mod makefile;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use crate::kconfig::{Config, Value};
use crate::modinfo::canonical;

/// A line of a Makefile that makes an object of its own: a module, or a part of the kernel.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Maker {
    /// The Makefile's path in the source.
    pub file: String,
    /// Counted from 1.
    pub line: usize,
    /// Symbols without `CONFIG_` that must all be on. Further conditions there may be; none is known.
    pub symbols: Vec<String>,
}

/// All makers of a source, by what they make.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kbuild {
    /// By canonical name; `*` stands for what a variable holds that is not known.
    makers: BTreeMap<String, Vec<Maker>>,
    /// Symbols that some Makefile sets itself, so that .config does not tell their value.
    set: BTreeSet<String>,
}

/// What will become of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// A maker of it is on, or may be.
    Made,
    /// All its makers are off: each with its symbols that are.
    Off(Vec<(&'a Maker, Vec<&'a str>)>),
    /// Nothing makes an object of this name.
    Unmade {
        /// The name most like it, if there is one.
        nearest: Option<&'a str>,
    },
}

/// Whether a file of the source is a Makefile that says what the kernel is made of.
pub fn is_makefile(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let other = ["Documentation/", "scripts/", "tools/"].iter().any(|folder| path.starts_with(folder));
    !other && (name.starts_with("Makefile") || name.starts_with("Kbuild"))
}

impl Kbuild {
    /// Adds what one Makefile makes.
    pub fn scan(&mut self, path: &str, text: &str) {
        let read = makefile::read(text);
        for object in read.objects {
            let maker = Maker { file: path.to_owned(), line: object.line, symbols: object.symbols };
            self.add(&object.name, maker);
        }
        self.set.extend(read.set);
    }

    /// Adds all of another.
    pub fn extend(&mut self, other: Kbuild) {
        for (name, makers) in other.makers {
            self.makers.entry(name).or_default().extend(makers);
        }
        self.set.extend(other.set);
    }

    fn add(&mut self, name: &str, maker: Maker) {
        self.makers.entry(canonical(name)).or_default().push(maker);
    }

    /// What will become of the module `name` under a configuration of the architecture whose folder is
    /// `arch/SRCARCH`. `-` and `_` are equal.
    pub fn verdict<'a>(&'a self, name: &str, config: &Config, srcarch: &str) -> Verdict<'a> {
        let name = canonical(name);
        let here = |maker: &&Maker| !foreign(&maker.file, srcarch);
        let off = |maker: &'a Maker| {
            let off = maker.symbols.iter().filter(|s| self.is_off(s, config));
            (maker, off.map(String::as_str).collect::<Vec<_>>())
        };
        let own: Vec<_> = self.makers.get(&name).into_iter().flatten().filter(here).map(off).collect();
        if own.iter().any(|(_, off)| off.is_empty()) {
            return Verdict::Made;
        }
        let vague = self.makers.iter().filter(|(pattern, _)| pattern.contains('*') && fits(pattern, &name));
        if vague.flat_map(|(_, makers)| makers).filter(here).any(|maker| off(maker).1.is_empty()) {
            return Verdict::Made;
        }
        match own.is_empty() {
            true => Verdict::Unmade { nearest: self.nearest(&name, config, srcarch) },
            false => Verdict::Off(own),
        }
    }

    /// Everything that makes an object by a symbol.
    pub fn made_by<'a>(&'a self, symbol: &'a str) -> impl Iterator<Item = &'a Maker> {
        self.makers.values().flatten().filter(move |maker| maker.symbols.iter().any(|s| s == symbol))
    }

    fn is_off(&self, symbol: &str, config: &Config) -> bool {
        matches!(config.get(symbol), None | Some(Value::No)) && !self.set.contains(symbol)
    }

    /// The name most like `name`, if it is like enough to be meant; of several, one that is on.
    fn nearest(&self, name: &str, config: &Config, srcarch: &str) -> Option<&str> {
        let bound = (name.chars().count() / 3).max(1);
        let near = |(known, makers): (&'_ String, &Vec<Maker>)| {
            let apart = known.len().abs_diff(name.len());
            let here = makers.iter().any(|maker| !foreign(&maker.file, srcarch));
            (here && apart <= bound && !known.contains('*')).then(|| strsim::osa_distance(name, known))
        };
        let on = |makers: &[Maker]| {
            makers.iter().any(|maker| !maker.symbols.iter().any(|s| self.is_off(s, config)))
        };
        let candidates = self.makers.iter().filter_map(|(known, makers)| {
            let distance = near((known, makers)).filter(|distance| *distance <= bound)?;
            Some((distance, !on(makers), known))
        });
        candidates.min().map(|(_, _, known)| known.as_str())
    }

    /// As lines that [`Kbuild::parse`] reads: a Makefile's path behind `: `, under it line, name and symbols of each
    /// object, at the end the symbols that are set behind `= `. Equal sources give equal text.
    pub fn to_text(&self) -> String {
        let named = |(name, makers): (&'_ String, &'_ Vec<Maker>)| {
            let all = makers
                .iter()
                .map(|maker| (maker.file.clone(), maker.line, name.clone(), maker.symbols.clone()));
            all.collect::<Vec<_>>()
        };
        let all: BTreeSet<_> = self.makers.iter().flat_map(named).collect();
        let mut text = String::new();
        let mut last = None;
        for (file, line, name, symbols) in &all {
            if last.replace(file) != Some(file) {
                let _ = writeln!(text, ": {file}");
            }
            let _ = write!(text, "{line} {name}");
            symbols.iter().for_each(|symbol| {
                let _ = write!(text, " {symbol}");
            });
            text.push('\n');
        }
        for symbol in &self.set {
            let _ = writeln!(text, "= {symbol}");
        }
        text
    }

    /// Reads what [`Kbuild::to_text`] wrote. The error is the number of the line that it did not write.
    pub fn parse(text: &str) -> Result<Kbuild, usize> {
        let mut kbuild = Kbuild::default();
        let mut file = None;
        for (at, line) in text.lines().enumerate() {
            if let Some(path) = line.strip_prefix(": ") {
                file = Some(path.to_owned());
            } else if let Some(symbol) = line.strip_prefix("= ") {
                kbuild.set.insert(symbol.to_owned());
            } else {
                let mut words = line.split(' ');
                let number = words.next().and_then(|word| word.parse().ok());
                let (Some(file), Some(line), Some(name)) = (&file, number, words.next()) else {
                    return Err(at + 1);
                };
                let symbols = words.map(str::to_owned).collect();
                kbuild.add(name, Maker { file: file.clone(), line, symbols });
            }
        }
        Ok(kbuild)
    }
}

/// Whether a file belongs to another architecture.
fn foreign(path: &str, srcarch: &str) -> bool {
    let folder = path.strip_prefix("arch/").and_then(|rest| rest.split_once('/')).map(|(folder, _)| folder);
    folder.is_some_and(|folder| folder != srcarch)
}

/// Whether a name fits a pattern in which each `*` stands for any text.
fn fits(pattern: &str, name: &str) -> bool {
    let mut pieces = pattern.split('*');
    let Some(mut rest) = name.strip_prefix(pieces.next().unwrap_or_default()) else { return false };
    let Some(last) = pieces.next_back() else { return rest.is_empty() };
    for piece in pieces {
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kbuild(files: &[(&str, &str)]) -> Kbuild {
        let mut all = Kbuild::default();
        files.iter().for_each(|(path, text)| all.scan(path, text));
        all
    }

    fn told(kbuild: &Kbuild, name: &str, config: &str) -> String {
        match kbuild.verdict(name, &Config::parse(config).unwrap(), "x86") {
            Verdict::Made => "made".into(),
            Verdict::Unmade { nearest } => format!("unmade {}", nearest.unwrap_or("-")),
            Verdict::Off(makers) => makers
                .iter()
                .map(|(maker, off)| format!("{}:{} {}", maker.file, maker.line, off.join(" ")))
                .collect::<Vec<_>>()
                .join(", "),
        }
    }

    #[test]
    fn a_module_is_off_only_if_every_line_that_makes_it_is() {
        let all = kbuild(&[
            ("drivers/a/Makefile", "obj-$(CONFIG_A) += a-one.o\nobj-$(CONFIG_A)\t+= both.o\nobj-y += in.o\n"),
            ("drivers/b/Makefile", "\nobj-$(CONFIG_B) += both.o\n"),
            ("arch/x86/Makefile", "obj-$(CONFIG_X) += fast.o\n"),
            ("arch/arm64/Makefile", "obj-$(CONFIG_ARM) += fast.o\nobj-y += only_arm.o\n"),
        ]);
        assert_eq!(told(&all, "a_one", "CONFIG_A=m\n"), "made");
        assert_eq!(told(&all, "a-one", "CONFIG_A=y\n"), "made");
        assert_eq!(told(&all, "a_one", "# CONFIG_A is not set\n"), "drivers/a/Makefile:1 A");
        assert_eq!(told(&all, "both", "CONFIG_B=m\n"), "made");
        assert_eq!(told(&all, "both", ""), "drivers/a/Makefile:2 A, drivers/b/Makefile:2 B");
        assert_eq!(told(&all, "in", ""), "made");
        assert_eq!(told(&all, "fast", "CONFIG_ARM=y\n"), "arch/x86/Makefile:1 X");
        assert_eq!(told(&all, "only_arm", ""), "unmade -");
    }

    #[test]
    fn the_nearest_name_is_one_that_is_on() {
        let all = kbuild(&[("Makefile", "obj-$(CONFIG_A) += veth1.o\nobj-$(CONFIG_B) += veth2.o\n")]);
        assert_eq!(told(&all, "veth", "CONFIG_B=m\n"), "unmade veth2");
        assert_eq!(told(&all, "veth", "CONFIG_A=m\n"), "unmade veth1");
        assert_eq!(told(&all, "quite_another", ""), "unmade -");
    }

    #[test]
    fn what_is_not_understood_is_taken_for_possible() {
        let all = kbuild(&[
            ("a/Makefile", "obj-$(CONFIG_A) += head_$(BITS).o\nobj-$(call f,x) += x.o\n"),
            ("b/Makefile", "CONFIG_C := y\nobj-$(CONFIG_C) += c.o\n"),
        ]);
        assert_eq!(told(&all, "head_64", "CONFIG_A=m\n"), "made");
        assert_eq!(told(&all, "head_64", ""), "unmade -");
        assert_eq!(told(&all, "x", ""), "made");
        assert_eq!(told(&all, "c", ""), "made");
        for (pattern, name, expected) in [
            ("*", "", true),
            ("a*", "a", true),
            ("a*b*c", "axbxc", true),
            ("a*b*c", "acb", false),
            ("a*a", "a", false),
            ("*x", "ax", true),
        ] {
            assert_eq!(fits(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn the_text_is_read_as_it_was_written() {
        let all = kbuild(&[
            ("b/Makefile", "obj-$(CONFIG_A) += x.o y.o\nifdef CONFIG_B\nobj-m += $(v)-z.o\nendif\n"),
            ("a/Kbuild", "CONFIG_Q = y\nobj-y += x.o\n"),
        ]);
        let text = all.to_text();
        assert_eq!(text, ": a/Kbuild\n2 x\n: b/Makefile\n1 x A\n1 y A\n3 *_z B\n= Q\n");
        let again = Kbuild::parse(&text).unwrap();
        assert_eq!(again.to_text(), text);
        assert_eq!(Kbuild::parse("1 x\n"), Err(1));
        assert_eq!(Kbuild::parse(": a\nx y\n"), Err(2));
    }

    #[test]
    fn makefiles_of_the_kernel_are_told_by_name_and_folder() {
        for path in ["Kbuild", "drivers/net/Makefile", "virt/kvm/Makefile.kvm", "fs/nouveau/Kbuild"] {
            assert!(is_makefile(path), "{path}");
        }
        for path in
            ["tools/testing/Makefile", "scripts/Makefile.build", "drivers/net/Kconfig", "Makefile/a.c"]
        {
            assert!(!is_makefile(path), "{path}");
        }
    }
}
