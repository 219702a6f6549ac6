//! Pins while a run goes on: which steps have theirs, which must find it first, and what becomes of what was found.
//! Knows neither how a pin is found (`Builtin::lock`) nor the form of the lock file.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::builtin::by_name;
use super::driver::{Driver, State};
use super::{Goal, Prepared, Resolved, Site};
use crate::action::{Builtin, BuiltinCx, Pinned, StepError, Work};
use crate::events::Event;
use crate::item::NoServices;
use crate::load::LoadOptions;
use crate::lockfile::{Pin, Pins, Update, with_profile};
use crate::plan::{self, StepGraph, StepIx, StepNode};
use crate::rule::PlanError;

/// What is wanted of a step, by what the run is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Nothing.
    No,
    /// Its pin, but nothing that it makes.
    Pin,
    /// Its result.
    Run,
}

/// What is wanted of each step.
pub(super) fn wanted(graph: &StepGraph, goal: Goal) -> Vec<Wanted> {
    if goal == Goal::Build {
        return vec![Wanted::Run; graph.steps.len()];
    }
    let mut wanted = vec![Wanted::No; graph.steps.len()];
    // Backwards: each step comes after those that it reads.
    for ix in (0..graph.steps.len()).rev() {
        let node = &graph.steps[ix];
        if wanted[ix] == Wanted::No {
            wanted[ix] = match goal {
                Goal::Fetch if node.step.waits() => Wanted::Run,
                _ if node.step.pin.is_some() => Wanted::Pin,
                _ => Wanted::No,
            };
        }
        if wanted[ix] != Wanted::No {
            for need in &node.needs {
                wanted[*need as usize] = Wanted::Run;
            }
        }
    }
    wanted
}

/// How a step and its pin stand.
pub(super) enum Standing {
    /// It has none.
    Unpinned,
    /// The lock has it; and what it gives the key.
    Pinned(Pin, Pinned),
    /// It is to be found, for this id; and what the lock has, if it has one.
    Missing(String, Option<Pin>),
}

impl Prepared {
    /// Whether the lock was changed by this run.
    pub(super) fn pins_changed(&self) -> bool {
        self.pins.1.lock().is_ok_and(|pins| pins.changed())
    }

    fn pin(&self, id: &str) -> Option<Pin> {
        self.pins.1.lock().ok()?.get(id).cloned()
    }
}

impl Driver<'_> {
    /// Whether a step whose inputs are known has its pin.
    pub(super) fn standing(&self, ix: StepIx, inputs: &[Resolved]) -> Result<Standing, StepError> {
        let node = &self.prepared.graph.steps[ix as usize];
        let (Some(general), Work::Builtin(work)) = (&node.step.pin, &node.step.work) else {
            return Ok(Standing::Unpinned);
        };
        let id = &self.id(node, &**work, inputs, general)?;
        let found = self.prepared.pin(id);
        let updated = self.locked.contains(id);
        let update = &self.options.update;
        if let Some(pin) = &found
            && (updated || !update.takes(self.target_name(ix)) && !takes_row(update, pin))
            && let Some(pinned) = self.fits(node, &**work, inputs, pin, updated)?
        {
            return Ok(Standing::Pinned(pin.clone(), pinned));
        }
        let refused = |e: PlanError| StepError { help: e.help, ..StepError::new(e.message).exit(e.exit) };
        if let Ok(pins) = self.prepared.pins.1.lock() {
            pins.may_make(id).map_err(refused)?;
        }
        Ok(Standing::Missing(id.clone(), found.or_else(|| self.prepared.pin(general))))
    }

    /// The id of a step's pin: with a profile one of its own, if what is pinned without it is not what is asked for.
    fn id(
        &self,
        node: &StepNode,
        work: &dyn Builtin,
        inputs: &[Resolved],
        general: &str,
    ) -> Result<String, StepError> {
        if let Some(profile) = &self.prepared.loaded.options().profile {
            let own = with_profile(general, profile);
            let taken = match self.prepared.pin(general) {
                Some(pin) => self.fits(node, work, inputs, &pin, false)?.is_none(),
                None => false,
            };
            if taken || self.prepared.pin(&own).is_some() {
                return Ok(own);
            }
        }
        Ok(general.to_owned())
    }

    /// What the pin gives the key, if it is for what the step asks now.
    fn fits(
        &self,
        node: &StepNode,
        work: &dyn Builtin,
        inputs: &[Resolved],
        pin: &Pin,
        surely: bool,
    ) -> Result<Option<Pinned>, StepError> {
        let cx = BuiltinCx {
            inputs: by_name(self.store, node, inputs)?,
            params: &node.step.params,
            store: self.store,
            scratch: PathBuf::new(),
            log: &|_| {},
            warn: &|_| {},
            cancelled: &|| false,
            pin: Some(pin),
            fetcher: &self.prepared.fetcher,
            progress: &|_, _, _| {},
            services: &NoServices,
        };
        match surely || work.fits(&cx, pin)? {
            true => Ok(Some(work.pinned(&cx, pin)?)),
            false => Ok(None),
        }
    }

    /// Puts a step into the queue of those whose pin is to be found; one of several with the same source at a time.
    pub(super) fn find_pin(&mut self, ix: StepIx, inputs: Vec<Resolved>, id: String, previous: Option<Pin>) {
        match self.finding.get_mut(&id) {
            // Keyed again when the first has found it.
            Some(waiting) => waiting.push(ix),
            None => {
                self.finding.insert(id.clone(), Vec::new());
                self.previous.insert(ix, (id, previous));
                self.make_ready(ix, inputs);
            }
        }
    }

    /// A pin was found: it is written at once, so that an interrupt does not lose it.
    pub(super) fn found_pin(&mut self, ix: StepIx, pin: Pin, millis: u64) {
        let prepared = self.prepared.clone();
        let step = &prepared.graph.steps[ix as usize].step;
        let id = self.previous.get(&ix).map(|(id, _)| id.clone()).unwrap_or_default();
        self.locked.insert(id.clone());
        if let Ok(mut pins) = prepared.pins.1.lock() {
            let new = pins.get(&id) != Some(&pin);
            pins.insert(&id, pin);
            if self.write(&pins) && new {
                self.sink.event(&Event::Locked { id: id.clone() });
            }
        }
        let (target, step) = (self.target_name(ix).to_owned(), step.name.clone());
        self.sink.event(&Event::LockFinished { target, step, millis });
        self.states[ix as usize] = State::Waiting;
        self.pin_settled(ix);
        self.evaluate.push_back(ix);
    }

    /// Drops pins that no target asks for any more, with no profile nor with any; of a file that cannot be planned with
    /// one of them, nothing is dropped.
    pub(super) fn drop_unasked(&mut self) {
        let prepared = self.prepared.clone();
        let site = &self.workspace.site;
        let mut asked = ids(&prepared.graph);
        for profile in std::iter::once(None).chain(prepared.loaded.profiles.iter().cloned().map(Some)) {
            match asked_with(site, profile) {
                Some(ids) => asked.extend(ids),
                None => return,
            }
        }
        if let Ok(mut pins) = prepared.pins.1.lock() {
            pins.retain(&asked);
            self.write(&pins);
        }
    }

    /// Writes the lock; a build goes on without it, and says so once.
    fn write(&mut self, pins: &Pins) -> bool {
        let Err(e) = pins.write(&self.workspace.dirs.root) else { return true };
        if !std::mem::replace(&mut self.unwritten, true) {
            let message = format!("mosbuild.lock could not be written: {e}");
            match self.options.goal {
                Goal::Lock => {
                    self.sink.event(&Event::PlaceFailed { message });
                    self.exit = self.exit.max(1);
                }
                Goal::Build | Goal::Fetch => self.sink.event(&Event::Warning { message }),
            }
        }
        false
    }

    /// Those that waited for the same pin look again.
    pub(super) fn pin_settled(&mut self, ix: StepIx) {
        if let Some((id, _)) = self.previous.remove(&ix)
            && let Some(waiting) = self.finding.remove(&id)
        {
            self.evaluate.extend(waiting);
        }
    }
}

/// The ids of all pins.
fn ids(graph: &StepGraph) -> BTreeSet<String> {
    graph.steps.iter().filter_map(|node| node.step.pin.clone()).collect()
}

/// The ids of all pins that the file asks for with a profile and without `--set` and `--override`.
fn asked_with(site: &Site, profile: Option<String>) -> Option<BTreeSet<String>> {
    let load = LoadOptions { profile, set: Vec::new(), overrides: Vec::new(), ..site.load.clone() };
    let mut loaded = Site { load, ..site.clone() }.load().ok()?;
    let order = loaded.order.clone();
    loaded.expand(&order).ok()?;
    let mut ids = ids(&plan::plan(&loaded, &site.registry, order).ok()?);
    if let Some(profile) = &loaded.options().profile {
        let own: Vec<String> = ids.iter().map(|id| with_profile(id, profile)).collect();
        ids.extend(own);
    }
    Some(ids)
}

/// Whether something in a pin is to be found anew.
fn takes_row(update: &Update, pin: &Pin) -> bool {
    pin.tables.values().flatten().any(|(name, _)| update.takes_row(name))
}
