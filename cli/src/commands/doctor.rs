//! `mosbuild doctor`: what the rules of this workspace need from this host, what is there and what is missing.
//! Builds nothing, fetches nothing; exit code 3 if a build would fail for want of something.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use clap::Args;
use mosbuild_engine::action::{ExecutorKind, Work};
use mosbuild_engine::build::executors::{self, Executing};
use mosbuild_engine::exec::{probe, probe_root};
use mosbuild_engine::plan::{StepGraph, plan_what_can_be};
use mosbuild_engine::tools::{Identity, Missing};
use mosbuild_rules::Arch;
use serde_json::json;

use crate::args::{GlobalArgs, StoreArgs};
use crate::failure::Failure;
use crate::format::{few, size};
use crate::session::{Access, Session};
use crate::table::{Align, Cell, Table};
use crate::ui::{Paint, Ui};

/// Less free space than this is worth a warning: a kernel build takes some of it.
const LITTLE_SPACE: u64 = 5 << 30;

/// Arguments of `doctor`.
#[derive(Args, Debug)]
pub struct DoctorArgs {
    /// One JSON object for programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    store: StoreArgs,
}

/// One thing that is needed.
struct Finding {
    what: String,
    /// Who needs it.
    needed_by: Vec<String>,
    /// What was found, or what is wrong.
    found: Result<String, String>,
    help: Vec<String>,
}

/// Examines.
pub fn run(ui: &Ui, global: &GlobalArgs, args: &DoctorArgs) -> Result<u8, Failure> {
    let mut session = Session::open(ui, global, &args.store, Access::Read)?;
    let (mut graph, mut findings) = planned(&session);
    let loaded = session.workspace.loaded.clone();
    let user = &session.workspace.site.executors;
    let executing = executors::decide(&mut graph, &loaded, user, &|_| true, None);
    let needs = needs(&session, &graph);
    findings.extend(executor(&executing, &needs));
    findings.extend(sandbox(&needs));
    findings.extend(container(&executing, &needs));
    findings.extend(tools(&mut session, &needs.tools));
    findings.extend(needs.programs.iter().map(|(program, targets)| on_host(program, targets)));
    findings.push(store(session.store().root()));
    if needs.machines {
        findings.push(kvm());
    }
    let missing = findings.iter().any(|f| f.found.is_err());
    match args.json {
        true => ui.json(&object(&findings, !missing))?,
        false => ui.out(&text(&findings, ui.color_out))?,
    }
    Ok(if missing { 3 } else { 0 })
}

/// The steps of every target that can be planned. Why others cannot, and what steps lack beside tools, is a finding itself,
/// once for all targets that it is about.
fn planned(session: &Session) -> (StepGraph, Vec<Finding>) {
    let loaded = &session.workspace.loaded;
    let (mut graph, errors) =
        plan_what_can_be(loaded, &session.workspace.site.registry, loaded.order.clone());
    let lacks = std::mem::take(&mut graph.lacks);
    let mut findings: Vec<Finding> = Vec::new();
    for (target, error) in errors.into_iter().chain(lacks) {
        let name = session.name(target).to_owned();
        let known = findings.iter_mut().find(|f| f.found.as_ref().is_err_and(|e| *e == error.message));
        match known {
            Some(finding) => finding.needed_by.push(name),
            None => findings.push(Finding {
                what: "plan".into(),
                needed_by: vec![name],
                found: Err(error.message),
                help: error.help,
            }),
        }
    }
    (graph, findings)
}

#[derive(Default)]
struct Needs {
    /// Tool → targets.
    tools: BTreeMap<String, BTreeSet<String>>,
    /// Program that works outside of sandboxes → targets.
    programs: BTreeMap<&'static str, BTreeSet<String>>,
    sandboxed: BTreeSet<String>,
    contained: BTreeSet<String>,
    /// Some step runs in a root of its own: packages are installed so.
    rooted: bool,
    /// Some step runs a virtual machine.
    machines: bool,
}

fn needs(session: &Session, graph: &StepGraph) -> Needs {
    let mut needs = Needs::default();
    for node in &graph.steps {
        let target = session.name(node.target).to_owned();
        let command = match &node.step.work {
            Work::Command(command) => command,
            Work::Builtin(work) => {
                for program in work.programs() {
                    needs.programs.entry(program).or_default().insert(target.clone());
                }
                for tool in work.tools() {
                    needs.tools.entry((*tool).to_owned()).or_default().insert(target.clone());
                    needs.sandboxed.insert(target.clone());
                }
                continue;
            }
        };
        if command.executor == ExecutorKind::Container {
            // Its image has the tools.
            needs.contained.insert(target);
            continue;
        }
        for tool in &command.tools {
            needs.tools.entry(tool.clone()).or_default().insert(target.clone());
        }
        needs.machines |= command.devices.iter().any(|d| d.ends_with("kvm"));
        if command.executor == ExecutorKind::Sandbox {
            needs.sandboxed.insert(target);
            needs.rooted |= node.step.is_rooted();
        }
    }
    needs
}

/// What was left to mosbuild to choose, and what it came to.
fn executor(executing: &Executing, needs: &Needs) -> Option<Finding> {
    let (kind, why) = executing.auto.as_ref()?;
    let (word, targets) = match kind {
        ExecutorKind::Container => ("container", &needs.contained),
        _ => ("sandbox", &needs.sandboxed),
    };
    Some(Finding {
        what: "executor".into(),
        needed_by: targets.iter().cloned().collect(),
        found: Ok(format!("auto is the {word}: {why}")),
        help: Vec::new(),
    })
}

/// The daemon and the image.
fn container(executing: &Executing, needs: &Needs) -> Option<Finding> {
    if needs.contained.is_empty() {
        return None;
    }
    let (found, help) = match (&executing.container, &executing.no_container) {
        (Some(container), _) => {
            let id = container.image_id();
            let short = id.get(.."sha256:".len() + 12).unwrap_or(id);
            let image = if id == container.image_name() { String::new() } else { format!(" ({short})") };
            (Ok(format!("{}, {}{image}", container.daemon(), container.image_name())), Vec::new())
        }
        (None, Some(trouble)) => (Err(trouble.message.clone()), trouble.help.clone()),
        (None, None) => return None,
    };
    let needed_by = needs.contained.iter().cloned().collect();
    Some(Finding { what: "container".into(), needed_by, found, help })
}

fn sandbox(needs: &Needs) -> Option<Finding> {
    if needs.sandboxed.is_empty() {
        return None;
    }
    let (probed, works) = match needs.rooted {
        true => (probe_root(), "namespaces work, and roots of their own"),
        false => (probe(), "namespaces work"),
    };
    let (found, help) = match probed {
        Ok(()) => (Ok(works.into()), Vec::new()),
        Err(refused) => {
            let without = "or set `executor: host` on the targets that may run without a sandbox";
            (Err(refused.reason), vec![refused.remedy, without.into()])
        }
    };
    Some(Finding {
        what: "sandbox".into(),
        needed_by: needs.sandboxed.iter().cloned().collect(),
        found,
        help,
    })
}

fn tools(session: &mut Session, needed: &BTreeMap<String, BTreeSet<String>>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (tool, targets) in needed {
        let identified = session.workspace.host.identify(std::slice::from_ref(tool));
        let (found, help) = match identified {
            Ok(identities) => (Ok(found_tool(tool, identities.get(tool), on_path(tool))), Vec::new()),
            Err(missing) => {
                let message = missing.iter().map(|m| m.message.as_str()).collect::<Vec<_>>().join("; ");
                (Err(message), missing.into_iter().flat_map(|m| m.help).collect())
            }
        };
        findings.push(Finding {
            what: tool.clone(),
            needed_by: targets.iter().cloned().collect(),
            found,
            help,
        });
    }
    findings
}

/// A program that sources are brought in with.
fn on_host(program: &str, targets: &BTreeSet<String>) -> Finding {
    let missing = Missing::tool(program);
    let (found, help) = match on_path(program) {
        Some(path) => (Ok(path.display().to_string()), Vec::new()),
        None => (Err(missing.message), missing.help),
    };
    Finding { what: program.into(), needed_by: targets.iter().cloned().collect(), found, help }
}

/// Path of a tool and what it says of itself, or else the package that most likely brought it.
fn found_tool(tool: &str, identity: Option<&Identity>, path: Option<PathBuf>) -> String {
    let packages = identity.map(|i| i.packages.as_slice()).unwrap_or_default();
    let own = packages.iter().find(|(name, _)| name == tool || name.starts_with(&format!("{tool}-")));
    let package = own.or(if packages.len() == 1 { packages.first() } else { None });
    let version = identity.and_then(|i| i.text.as_ref()?.lines().next()).map(str::to_owned);
    let version = version.or_else(|| package.map(|(name, version)| format!("{name} {version}")));
    // A package may be declared as a tool too, for its headers: then there is no path.
    let parts = [path.map(|p| p.display().to_string()), version];
    let text = parts.into_iter().flatten().collect::<Vec<_>>().join(", ");
    if text.is_empty() { tool.to_owned() } else { text }
}

fn on_path(tool: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(tool)).find(|p| p.is_file())
}

fn store(root: &Path) -> Finding {
    let free = rustix::fs::statvfs(root).map(|s| s.f_bavail.saturating_mul(s.f_frsize));
    let (found, help) = match free {
        Ok(free) => {
            let little = free < LITTLE_SPACE;
            let help =
                little.then(|| "that is little for a kernel; --cache-dir puts the store elsewhere".into());
            (Ok(format!("{}, {} free", root.display(), size(free))), help.into_iter().collect())
        }
        Err(e) => (Err(format!("{}: {e}", root.display())), Vec::new()),
    };
    Finding { what: "store".into(), needed_by: Vec::new(), found, help }
}

/// Not needed, but a boot takes some ten times as long without it.
fn kvm() -> Finding {
    let works = Arch::named(std::env::consts::ARCH).is_some_and(super::boot::kvm_works);
    let (found, help) = match works {
        true => (Ok("a machine runs with /dev/kvm".into()), Vec::new()),
        false => {
            let help = "machines are emulated, which is slower; `sudo usermod -aG kvm $USER` may allow it";
            (Ok("no machine runs with /dev/kvm".into()), vec![help.into()])
        }
    };
    Finding { what: "kvm".into(), needed_by: Vec::new(), found, help }
}

fn text(findings: &[Finding], color: bool) -> String {
    let mut table = Table::new(&[
        ("", Align::Left),
        ("needed", Align::Left),
        ("found", Align::Left),
        ("by", Align::Left),
    ]);
    for finding in findings {
        let (mark, found) = match &finding.found {
            Ok(found) => (Cell::painted("ok", Paint::Green), found.lines().next().unwrap_or_default()),
            Err(wrong) => (Cell::painted("missing", Paint::Red), wrong.lines().next().unwrap_or_default()),
        };
        table.row([mark, finding.what.as_str().into(), found.into(), few(&finding.needed_by).into()]);
    }
    let mut out = table.render(color);
    let help: BTreeSet<&String> = findings.iter().flat_map(|f| &f.help).collect();
    if !help.is_empty() {
        out.push('\n');
        for line in help {
            out.push_str(&format!("{}: {line}\n", Paint::Cyan.on(color, "help")));
        }
    }
    let packages = packages(findings);
    if packages.len() > 1 {
        let all = packages.into_iter().collect::<Vec<_>>().join(" ");
        out.push_str(&format!("\nall at once: sudo apt-get install {all}\n"));
    }
    out
}

/// The packages that the help of missing things says to install.
fn packages(findings: &[Finding]) -> BTreeSet<String> {
    let help = findings.iter().filter(|f| f.found.is_err()).flat_map(|f| &f.help);
    help.filter_map(|line| {
        let (_, rest) = line.split_once("apt-get install ").or_else(|| line.split_once("apt install "))?;
        Some(rest.split('`').next().unwrap_or(rest))
    })
    .flat_map(str::split_whitespace)
    .filter(|word| !word.starts_with('-'))
    .map(str::to_owned)
    .collect()
}

fn object(findings: &[Finding], ok: bool) -> serde_json::Value {
    let list: Vec<_> = findings
        .iter()
        .map(|f| {
            json!({
                "what": f.what,
                "ok": f.found.is_ok(),
                "found": f.found.as_ref().ok(),
                "problem": f.found.as_ref().err(),
                "needed_by": f.needed_by,
                "help": f.help,
            })
        })
        .collect();
    json!({"schema": "mosbuild.doctor/1", "ok": ok, "findings": list})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_gathered_from_the_help_of_what_is_missing() {
        let finding = |found: Result<&str, &str>, help: &str| Finding {
            what: "x".into(),
            needed_by: Vec::new(),
            found: found.map(str::to_owned).map_err(str::to_owned),
            help: vec![help.into()],
        };
        let all = [
            finding(Err("a"), "sudo apt-get install -y bc flex"),
            finding(Err("b"), "run `apt install bison` first"),
            finding(Ok("c"), "apt install unneeded"),
            finding(Err("d"), "no idea"),
        ];
        let found: Vec<_> = packages(&all).into_iter().collect();
        assert_eq!(found, ["bc", "bison", "flex"]);
    }

    #[test]
    fn tools_are_shown_with_path_and_version() {
        let identity = |packages: &[(&str, &str)], text: Option<&str>| Identity {
            tool: "x".into(),
            packages: packages.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect(),
            digest: None,
            text: text.map(str::to_owned),
        };
        let gcc = identity(&[("binutils", "2.40"), ("gcc", "12.2")], None);
        assert_eq!(found_tool("gcc", Some(&gcc), Some("/usr/bin/gcc".into())), "/usr/bin/gcc, gcc 12.2");
        assert_eq!(found_tool("ld", Some(&gcc), Some("/usr/bin/ld".into())), "/usr/bin/ld");
        let rust = identity(&[], Some("rustc 1.95.0\nhost: x"));
        assert_eq!(found_tool("rustc", Some(&rust), Some("/r/rustc".into())), "/r/rustc, rustc 1.95.0");
        let headers = identity(&[("libelf-dev", "0.188")], None);
        assert_eq!(found_tool("libelf-dev", Some(&headers), None), "libelf-dev 0.188");
    }
}
