//! `mosbuild import`: configuration of the shell pipeline that mosbuild replaces, printed as targets.
//! What has no equivalent is said line by line on stderr.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::failure::Failure;
use crate::import::{self, Block, Kind};
use crate::publish;
use crate::ui::Ui;

/// The largest file that is taken for one of these.
const LARGEST: u64 = 4 << 20;

/// Arguments of `import`.
#[derive(Args, Debug)]
pub struct ImportArgs {
    /// sources.conf, packages.list, modules.conf, kernel.config, my_init.conf, rfs.conf
    #[arg(required = true, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    files: Vec<PathBuf>,
    /// What the files are, whatever they are called
    #[arg(long = "as", value_enum, value_name = "KIND")]
    kind: Option<Kind>,
}

/// Prints `targets:` with what the files became, and `dist:` where an image comes of it; of rfs.conf alone,
/// config/publish.yaml.
pub fn run(ui: &Ui, args: &ImportArgs) -> Result<u8, Failure> {
    let mut text = String::from("targets:\n");
    let mut known: Vec<(String, String)> = Vec::new();
    let mut files = Vec::new();
    let mut parts: Vec<Block> = Vec::new();
    let mut settings = None;
    for path in &args.files {
        files.push((path, kind(path, args.kind)?, read(path)?));
    }
    for (path, kind, content) in files {
        let shown = path.display().to_string();
        let mut imported = import::read(kind, &relative(path), &content);
        if let Some(fields) = &imported.publish {
            settings = Some(format!("# {}, of {shown}\n{fields}", publish::config::FILE));
        }
        for block in imported.targets.iter_mut().filter(|block| !block.off) {
            match known.iter().find(|(name, _)| *name == block.name) {
                Some((name, first)) => {
                    ui.warn(&format!("{shown}: {name} is there already, by {first}: printed as a comment"));
                    block.off = true;
                }
                None => known.push((block.name.clone(), shown.clone())),
            }
        }
        text.push_str(&format!("  # {shown}\n"));
        text.extend(imported.targets.iter().map(Block::text));
        parts.extend(imported.targets.into_iter().filter(|block| !block.off));
        text.push('\n');
        for remark in imported.remarks {
            let place = if remark.line == 0 { shown.clone() } else { format!("{shown}:{}", remark.line) };
            ui.warn(&format!("{place}: {}", remark.text));
        }
    }
    match settings {
        Some(settings) if parts.is_empty() => {
            ui.out(&settings)?;
            return Ok(0);
        }
        Some(_) => {
            let file = publish::config::FILE;
            ui.warn(&format!("rfs.conf becomes {file}: `mosbuild import` of it alone prints that"));
        }
        None => {}
    }
    let image = import::assembly(&parts);
    if !image.is_empty() {
        text.push_str("  # The image, as the old pipeline put it together.\n");
        text.extend(image.iter().map(Block::text));
        parts.extend(image);
    }
    ui.out(&format!("{}\n{}", text.trim_end(), import::dist(&parts)))?;
    Ok(0)
}

fn kind(path: &Path, given: Option<Kind>) -> Result<Kind, Failure> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    given.or_else(|| Kind::of(&name)).ok_or_else(|| {
        Failure::usage(format!("{} is none of the files that are known", path.display()))
            .help("sources.conf, packages.list, modules.conf, kernel.config, my_init.conf and rfs.conf are")
            .help("`--as sources` and the like tell what a file of another name is")
    })
}

fn read(path: &Path) -> Result<String, Failure> {
    let failed = |what: String| Failure::usage(format!("{}: {what}", path.display()));
    let size = std::fs::metadata(path).map_err(|e| failed(e.to_string()))?;
    if !size.is_file() {
        return Err(failed("this is no file".into()));
    }
    if size.len() > LARGEST {
        return Err(failed(format!("{} bytes are too many for a configuration", size.len())));
    }
    String::from_utf8(std::fs::read(path).map_err(|e| failed(e.to_string()))?)
        .map_err(|_| failed("the file is not UTF-8".into()))
}

/// As mosbuild.yaml names it: by the current directory, which is taken for the workspace's.
fn relative(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    let path = path.strip_prefix(&here).unwrap_or(path);
    path.strip_prefix(".").unwrap_or(path).display().to_string()
}
