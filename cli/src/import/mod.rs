//! The configuration of a shell pipeline as targets: what was read becomes YAML, what has no equivalent a remark.
//! Knows the old formats; neither reads nor prints.

mod assembly;
mod conf;
mod lists;
mod sources;
#[cfg(test)]
mod tests;
mod yaml;

pub use assembly::{assembly, dist};
pub use yaml::Block;

/// Which file of the old pipeline something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// sources.conf: repositories and releases, one a line.
    Sources,
    /// packages.list: Alpine packages, one a line.
    Packages,
    /// modules.conf: kernel modules, one a line.
    Modules,
    /// kernel.config: a whole configuration of a kernel.
    Kernel,
    /// my_init.conf: settings of the image's init, which the image takes as they are.
    MyInit,
    /// rfs.conf: where to upload.
    Rfs,
}

impl Kind {
    /// By the name that the old pipeline gave it.
    pub fn of(file_name: &str) -> Option<Kind> {
        let ends = |ending: &str| file_name.ends_with(ending);
        Some(match file_name {
            "rfs.conf" => Kind::Rfs,
            "my_init.conf" => Kind::MyInit,
            _ if ends("sources.conf") => Kind::Sources,
            _ if ends("packages.list") => Kind::Packages,
            _ if ends("modules.conf") => Kind::Modules,
            _ if ends("kernel.config") || ends(".config") => Kind::Kernel,
            _ => return None,
        })
    }
}

/// What has no equivalent, or needs a hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// Line of the file; 1 is the first, 0 is all of it.
    pub line: usize,
    /// What about it.
    pub text: String,
}

/// What a file became.
#[derive(Debug, Default)]
pub struct Imported {
    /// Targets, in the file's order.
    pub targets: Vec<Block>,
    /// In the order of lines.
    pub remarks: Vec<Remark>,
    /// What config/publish.yaml becomes.
    pub publish: Option<String>,
}

impl Imported {
    fn remark(&mut self, line: usize, text: impl Into<String>) {
        self.remarks.push(Remark { line, text: text.into() });
    }

    fn has(&self, name: &str) -> Option<&Block> {
        self.targets.iter().find(|block| block.name == name)
    }
}

/// Reads a file; `path` is its name relative to the workspace.
pub fn read(kind: Kind, path: &str, text: &str) -> Imported {
    // Left on for the lists, which the rules read with it.
    let text = match kind {
        Kind::Packages | Kind::Modules => text,
        _ => text.strip_prefix('\u{feff}').unwrap_or(text),
    };
    match kind {
        Kind::Sources => sources::read(text),
        Kind::Packages => lists::packages(path, text),
        Kind::Modules => lists::modules(path, text),
        Kind::Kernel => conf::kernel(path, text),
        Kind::MyInit => conf::my_init(path),
        Kind::Rfs => conf::rfs(text),
    }
}

/// Lines that say something: number, and text without comment and blanks around.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(at, line)| (at + 1, bare(line))).filter(|(_, line)| !line.is_empty())
}

/// A line without its comment, which begins with a `#` at the start or behind a blank: one in a URL is part of it.
fn bare(line: &str) -> &str {
    let starts = |at: &usize| *at == 0 || line[..*at].ends_with(|c: char| c.is_whitespace());
    let comment = line.match_indices('#').map(|(at, _)| at).find(starts);
    line[..comment.unwrap_or(line.len())].trim()
}
