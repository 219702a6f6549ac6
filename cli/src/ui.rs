//! Where words go: results to stdout, messages to stderr, in colour where a terminal looks on.
//! The one place that writes to either; knows no command.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use mosbuild_engine::load::Diagnostics;

use crate::args::{ColorWhen, GlobalArgs};
use crate::failure::Failure;

/// ANSI colours, by what they are used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paint {
    /// Headings and names.
    Bold,
    /// Less important.
    Dim,
    /// Done, fresh.
    Green,
    /// Will run, changed.
    Yellow,
    /// Failed.
    Red,
    /// Kinds, advice.
    Cyan,
}

impl Paint {
    fn code(self) -> &'static str {
        match self {
            Paint::Bold => "1",
            Paint::Dim => "2",
            Paint::Green => "32",
            Paint::Yellow => "33",
            Paint::Red => "1;31",
            Paint::Cyan => "36",
        }
    }

    /// The text in this colour, if colours are on.
    pub fn on(self, color: bool, text: &str) -> String {
        if color { format!("\x1b[{}m{text}\x1b[0m", self.code()) } else { text.to_owned() }
    }
}

/// What decides colours and redrawing, read once.
#[derive(Clone, Copy, Debug)]
struct Surroundings {
    stdout_terminal: bool,
    stderr_terminal: bool,
    no_color: bool,
    ci: bool,
    dumb: bool,
}

impl Surroundings {
    fn read() -> Surroundings {
        let set = |name: &str| std::env::var_os(name).is_some_and(|v| !v.is_empty());
        let ci = std::env::var("CI").is_ok_and(|v| !v.is_empty() && v != "false" && v != "0");
        Surroundings {
            stdout_terminal: std::io::stdout().is_terminal(),
            stderr_terminal: std::io::stderr().is_terminal(),
            no_color: set("NO_COLOR"),
            ci,
            dumb: std::env::var("TERM").is_ok_and(|t| t == "dumb"),
        }
    }
}

/// The user's side of a command.
#[derive(Clone, Debug)]
pub struct Ui {
    /// Colours on stdout.
    pub color_out: bool,
    /// Colours on stderr.
    pub color_err: bool,
    /// Lines on stderr may be redrawn.
    pub redraw: bool,
    /// Annotations of GitHub's runner.
    pub github: bool,
    /// -1: errors and the summary; 0; 1: with every line of output.
    pub verbosity: i8,
}

impl Ui {
    /// As the flags and the surroundings want it.
    pub fn new(global: &GlobalArgs) -> Ui {
        let github = std::env::var("GITHUB_ACTIONS").is_ok_and(|v| v == "true");
        Ui::of(global, Surroundings::read(), github)
    }

    fn of(global: &GlobalArgs, around: Surroundings, github: bool) -> Ui {
        let quiet_place = around.no_color || around.ci || around.dumb;
        let color = |terminal: bool| match global.color.unwrap_or(ColorWhen::Auto) {
            ColorWhen::Always => true,
            ColorWhen::Never => false,
            ColorWhen::Auto => terminal && !quiet_place,
        };
        let verbosity = global.verbosity();
        Ui {
            color_out: color(around.stdout_terminal),
            color_err: color(around.stderr_terminal),
            redraw: around.stderr_terminal
                && !quiet_place
                && global.color != Some(ColorWhen::Never)
                && verbosity >= 0,
            github,
            verbosity,
        }
    }

    /// Writes results to stdout.
    pub fn out(&self, text: &str) -> Result<(), Failure> {
        self.bytes(text.as_bytes())
    }

    /// Writes results that may be no text.
    pub fn bytes(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(bytes)?;
        Ok(stdout.flush()?)
    }

    /// One JSON object to stdout, for programs.
    pub fn json(&self, value: &serde_json::Value) -> Result<(), Failure> {
        self.out(&format!("{value:#}\n"))
    }

    /// Writes a message to stderr as it is. That nobody can read it is no reason to stop.
    pub fn say(&self, text: &str) {
        let mut stderr = std::io::stderr().lock();
        let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.write_all(b"\n"));
    }

    /// A remark, unless -q was given.
    pub fn note(&self, text: &str) {
        if self.verbosity >= 0 {
            self.say(text);
        }
    }

    /// A warning, unless -q was given.
    pub fn warn(&self, text: &str) {
        if self.verbosity >= 0 {
            self.say(&warning(self.color_err, text));
        }
    }

    /// An error with lines of help.
    pub fn error(&self, message: &str, help: &[String]) {
        self.say(&error(self.color_err, message, help));
        if self.github {
            self.say(&annotation("error", None, message));
        }
    }

    /// What is wrong with a file, with the text that it is about; `file` is how annotations name it.
    pub fn diagnostics(&self, diagnostics: &Diagnostics, file: &str) {
        self.say(diagnostics.render(self.color_err).trim_end());
        if self.github {
            for item in &diagnostics.items {
                let (line, column) = diagnostics.position(item).unwrap_or((1, 1));
                let place = (file, line, Some(column));
                self.say(&annotation("error", Some(place), &item.message));
            }
        }
    }
}

/// `error: …` with indented further lines and help.
pub fn error(color: bool, message: &str, help: &[String]) -> String {
    let mut text = format!("{}: {}", Paint::Red.on(color, "error"), indent_rest(message, "       "));
    for line in help {
        text.push_str(&format!("\n  {}: {}", Paint::Cyan.on(color, "help"), indent_rest(line, "        ")));
    }
    text
}

/// `warning: …`.
pub fn warning(color: bool, message: &str) -> String {
    format!("{}: {}", Paint::Yellow.on(color, "warning"), indent_rest(message, "         "))
}

fn indent_rest(text: &str, indent: &str) -> String {
    text.trim_end().replace('\n', &format!("\n{indent}"))
}

/// How GitHub's annotations name a file: from the top of the checkout.
pub fn annotated_file(path: &Path) -> String {
    let top = std::env::var_os("GITHUB_WORKSPACE").map(PathBuf::from);
    let below = top.and_then(|top| path.strip_prefix(top).ok().map(PathBuf::from));
    let short = || path.file_name().map(PathBuf::from).unwrap_or_default();
    below.unwrap_or_else(short).display().to_string()
}

/// A workflow command of GitHub's runner: `::error file=…,line=…::message`.
pub fn annotation(kind: &str, place: Option<(&str, usize, Option<usize>)>, message: &str) -> String {
    let text = |s: &str| s.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
    let property = |s: &str| text(s).replace(':', "%3A").replace(',', "%2C");
    let place = place.map(|(file, line, column)| {
        let column = column.map(|c| format!(",col={c}")).unwrap_or_default();
        format!(" file={},line={line}{column}", property(file))
    });
    format!("::{kind}{}::{}", place.unwrap_or_default(), text(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terminal() -> Surroundings {
        Surroundings { stdout_terminal: true, stderr_terminal: true, no_color: false, ci: false, dumb: false }
    }

    #[test]
    fn redrawing_needs_a_terminal_and_nobody_against_it() {
        let plain = GlobalArgs::default();
        assert!(Ui::of(&plain, terminal(), false).redraw);
        for around in [
            Surroundings { stderr_terminal: false, ..terminal() },
            Surroundings { ci: true, ..terminal() },
            Surroundings { no_color: true, ..terminal() },
            Surroundings { dumb: true, ..terminal() },
        ] {
            let ui = Ui::of(&plain, around, false);
            assert!(!ui.redraw && !ui.color_err, "{around:?}");
        }
        let never = GlobalArgs { color: Some(ColorWhen::Never), ..GlobalArgs::default() };
        assert!(!Ui::of(&never, terminal(), false).redraw);
        let always = GlobalArgs { color: Some(ColorWhen::Always), ..GlobalArgs::default() };
        let piped = Surroundings { stdout_terminal: false, stderr_terminal: false, ..terminal() };
        let ui = Ui::of(&always, piped, false);
        assert!(ui.color_out && ui.color_err && !ui.redraw);
    }

    #[test]
    fn annotations_are_escaped() {
        assert_eq!(
            annotation("error", Some(("a,b.yaml", 3, None)), "100%\nworse"),
            "::error file=a%2Cb.yaml,line=3::100%25%0Aworse"
        );
        assert_eq!(annotation("warning", None, "x"), "::warning::x");
    }

    #[test]
    fn errors_keep_their_lines_together() {
        let text = error(false, "first\nsecond\n", &["do this".into()]);
        assert_eq!(text, "error: first\n       second\n  help: do this");
    }
}
