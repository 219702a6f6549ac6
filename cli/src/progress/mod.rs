//! What a build looks like while it runs: subscribers of its events.
//! Knows events only; a build runs the same without any of this.

mod bars;
mod estimate;
mod json;
mod narrator;
mod plain;
mod terminal;
mod watched;

use std::sync::Arc;

use mosbuild_engine::events::{Event, Sink};

pub use bars::Bars;
pub use estimate::{History, durations, requested};
pub use json::JsonLines;
pub use narrator::Narrator;
pub use plain::Plain;
pub use watched::Watched;

use crate::ui::Ui;

/// How many running steps are drawn; the others are counted.
const SHOWN_STEPS: usize = 12;

/// The subscriber for the person at the desk, fit for where stderr goes.
pub enum Display {
    /// Redrawn on a terminal.
    Bars(Arc<Bars>),
    /// Lines.
    Plain(Arc<Plain>),
}

impl Display {
    /// For this terminal or log. `file` is how annotations name mosbuild.yaml.
    pub fn new(ui: &Ui, file: String, history: History) -> Display {
        let narrator = Narrator::new(ui, file);
        match ui.redraw {
            true => Display::Bars(Arc::new(Bars::new(narrator, history))),
            false => Display::Plain(Arc::new(Plain::new(narrator))),
        }
    }

    /// As a subscriber.
    pub fn sink(&self) -> Arc<dyn Sink> {
        match self {
            Display::Bars(bars) => bars.clone(),
            Display::Plain(plain) => plain.clone(),
        }
    }

    /// Takes anything drawn off the terminal, however the build ended.
    pub fn close(&self) {
        match self {
            Display::Bars(bars) => bars.close(),
            Display::Plain(_) => {}
        }
    }
}

/// The line that every build ends with.
pub fn summary(event: &Event) -> Option<String> {
    match event {
        Event::RunFinished { built, cached, failed, millis } => {
            let seconds = crate::format::summary_seconds(*millis);
            Some(format!("{built} built, {cached} cached, {failed} failed in {seconds} s"))
        }
        _ => None,
    }
}
