//! What a build would do now: the driver's own look-ups, of which nothing is run.
//! Knows no worker and no display.

use std::sync::Arc;

use mosbuild_cache::Store;

use super::driver::{Driver, State};
use super::{BuildError, BuildOptions, Forecast, Predicted, Prepared, Workspace};
use crate::events::{Event, Sink};
use crate::plan::StepIx;

/// Says of each target whether it is a hit, will run, or depends on another's output.
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
        let name = &prepared.loaded.targets[t as usize].name;
        let steps = &prepared.graph.of_target[t as usize];
        let runs = steps.iter().find(|s| matches!(driver.states[**s as usize], State::Ready));
        let waits = steps.iter().find(|s| matches!(driver.states[**s as usize], State::Waiting));
        let forecast = match (runs, waits) {
            (Some(&s), _) => {
                let step = prepared.graph.steps[s as usize].step.name.clone();
                let expected = driver.workspace.memory.expected(name, &step);
                Forecast::Run { step, expected }
            }
            (None, Some(&s)) => Forecast::DependsOn(driver.awaited(s)),
            (None, None) => Forecast::Hit,
        };
        targets.push((name.clone(), forecast));
    }
    let steps = (0..driver.notes.len()).map(|ix| driver.step_run(ix as StepIx)).collect();
    Ok(Predicted { targets, steps, records: driver.records })
}
