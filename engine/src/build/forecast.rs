//! What a build would do now: the driver's own look-ups, of which nothing is run.
//! Knows no worker and no display.

use std::sync::Arc;

use mosbuild_cache::Store;

use super::driver::{Driver, State};
use super::{BuildError, BuildOptions, Forecast, Predicted, Prepared, Workspace};
use crate::events::{Event, Sink};
use crate::plan::StepIx;

/// Says of each target whether it is a hit, will run, depends on another's output, or cannot be built here.
pub(super) fn predict(
    workspace: &mut Workspace,
    prepared: Prepared,
    store: &Store,
    options: &BuildOptions,
) -> Result<Predicted, BuildError> {
    struct Nobody;
    impl Sink for Nobody {
        fn event(&self, _: &Event) {}
    }
    let prepared = Arc::new(prepared);
    let mut driver = Driver::new(workspace, prepared.clone(), store, options, Arc::new(Nobody));
    while let Some(ix) = driver.evaluate.pop_front() {
        driver.evaluate(ix)?;
    }
    let mut targets = Vec::new();
    for &t in &prepared.counted {
        let state = |s: &&StepIx| &driver.states[**s as usize];
        let name = &prepared.loaded.targets[t as usize].name;
        let steps = &prepared.graph.of_target[t as usize];
        let runs = steps.iter().find(|s| matches!(state(s), State::Ready));
        let waits = steps.iter().find(|s| matches!(state(s), State::Waiting));
        let forecast = match (prepared.blocked.get(&t), runs, waits) {
            (Some(blocked), ..) => Forecast::Blocked(blocked.clone()),
            (None, Some(&s), _) => {
                let step = &prepared.graph.steps[s as usize].step;
                let expected = driver.workspace.memory.expected(name, &step.name);
                match prepared.no_sandbox.clone().filter(|_| step.is_sandboxed()) {
                    Some(blocked) => Forecast::Blocked(blocked),
                    None => Forecast::Run { step: step.name.clone(), expected },
                }
            }
            (None, None, Some(&s)) => Forecast::DependsOn(driver.awaited(s)),
            (None, None, None) => Forecast::Hit,
        };
        targets.push((name.clone(), forecast));
    }
    let steps = (0..driver.notes.len()).map(|ix| driver.step_run(ix as StepIx)).collect();
    Ok(Predicted { targets, steps, records: driver.records })
}
