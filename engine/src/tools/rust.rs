//! Which Rust toolchain `cargo` and `rustc` mean here: rustup's proxies are asked for the toolchain behind them.
//!
//! Does not install anything and does not know what is compiled.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::find::{Looked, hops, search};
use super::missing::Missing;

pub(super) struct Toolchain {
    /// The program asked for, as the host has it.
    pub program: PathBuf,
    /// `rustc --print sysroot`.
    pub sysroot: PathBuf,
    /// Whether it is the distribution's, below /usr, where a sandbox sees it anyway.
    pub system: bool,
    /// `-vV` of the program, and of rustc if that is another.
    pub text: String,
}

/// The first rustc of these folders that works, in the workspace, where a toolchain file may choose.
pub(super) fn locate(
    name: &str,
    folders: &[&PathBuf],
    workspace: &Path,
    looked: &mut Looked,
) -> Result<Toolchain, Missing> {
    let mut reason = None;
    for (index, folder) in folders.iter().enumerate() {
        let Some(rustc) = search("rustc", [*folder].into_iter(), looked) else { continue };
        if folders[..index].contains(folder) {
            continue;
        }
        look_at_choices(&rustc, workspace, looked);
        let sysroot = match ask(&rustc, &["--print", "sysroot"], workspace) {
            Ok(text) => PathBuf::from(text.trim()),
            Err(error) => {
                reason = reason.or(Some(error));
                continue;
            }
        };
        let system = sysroot.starts_with("/usr");
        let program = if system { folder.join(name) } else { sysroot.join("bin").join(name) };
        let compiler = if system { rustc } else { sysroot.join("bin/rustc") };
        for file in [&program, &compiler] {
            looked.at(file);
        }
        let mut text = match ask(&program, &["-vV"], workspace) {
            Ok(text) => text,
            Err(error) => {
                reason = reason.or(Some(error));
                continue;
            }
        };
        if name != "rustc" {
            match ask(&compiler, &["-vV"], workspace) {
                Ok(more) => text.push_str(&more),
                Err(error) => return Err(Missing::broken(name, &error)),
            }
        }
        return Ok(Toolchain { program, sysroot, system, text });
    }
    Err(reason.map_or_else(|| Missing::tool(name), |reason| Missing::broken(name, &reason)))
}

/// The files by which rustup chooses.
fn look_at_choices(rustc: &Path, workspace: &Path, looked: &mut Looked) {
    for hop in hops(rustc) {
        looked.at(&hop);
    }
    for folder in workspace.ancestors() {
        looked.at(&folder.join("rust-toolchain"));
        looked.at(&folder.join("rust-toolchain.toml"));
    }
    let home = std::env::var_os("RUSTUP_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".rustup")));
    if let Some(home) = home {
        looked.at(&home.join("settings.toml"));
    }
}

fn ask(program: &Path, arguments: &[&str], workspace: &Path) -> Result<String, String> {
    let mut command = Command::new(program);
    command.args(arguments).env("RUSTUP_AUTO_INSTALL", "0").stdin(std::process::Stdio::null());
    if workspace.is_dir() {
        command.current_dir(workspace);
    }
    let said = |error: &dyn std::fmt::Display| format!("{}: {error}", program.display());
    let output = command.output().map_err(|error| said(&error))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(said(&text.lines().find(|line| !line.trim().is_empty()).unwrap_or("it failed silently")));
    }
    String::from_utf8(output.stdout).map_err(|error| said(&error))
}
