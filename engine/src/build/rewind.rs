//! Lost blobs: which steps have to run again, because the store lost what they made, and what follows from that.
//! Does not know how a blob was lost.

use std::collections::{BTreeMap, BTreeSet};

use mosbuild_cache::{ActionResult, Digest, Node, Output, OutputKind, Store};

use super::driver::{Driver, State};
use crate::action::StepError;
use crate::events::Event;
use crate::plan::StepIx;
use crate::run_record::Reason;

impl Driver<'_> {
    /// An input blob is gone: its producers run again, then this step is keyed again.
    pub(super) fn lost(&mut self, ix: StepIx, digest: Digest, error: StepError) {
        let needs = self.prepared.graph.steps[ix as usize].needs.clone();
        // A source that was damaged in the store has been set aside; it is brought in again.
        if self.origins(&needs, digest).0.is_empty() && self.retried.insert(ix) {
            self.states[ix as usize] = State::Waiting;
            self.evaluate.push_back(ix);
            return;
        }
        self.states[ix as usize] = State::Waiting;
        if !self.rewind_origins(&needs, digest) {
            self.fail(ix, error, Vec::new(), None);
        }
    }

    /// The steps that made a blob which these steps' outputs have, with their outputs, and the steps on the way that
    /// only pass it on: one that merges trees would do so again without a look at it.
    fn origins(&self, from: &[StepIx], digest: Digest) -> (BTreeMap<StepIx, String>, BTreeSet<StepIx>) {
        let has = |ix: StepIx| match &self.states[ix as usize] {
            State::Done(result, _) => output_with(self.store, result, digest),
            _ => None,
        };
        let (mut origins, mut passing) = (BTreeMap::new(), BTreeSet::new());
        let mut stack = from.to_vec();
        while let Some(at) = stack.pop() {
            if origins.contains_key(&at) || passing.contains(&at) {
                continue;
            }
            let Some(output) = has(at) else { continue };
            let above = &self.prepared.graph.steps[at as usize].needs;
            if above.iter().any(|n| has(*n).is_some()) {
                passing.insert(at);
                stack.extend(above);
            } else {
                origins.insert(at, output);
            }
        }
        (origins, passing)
    }

    /// Makes the origins of a lost blob run again, and all on the way be keyed again behind them. False if each of
    /// them did so already.
    pub(super) fn rewind_origins(&mut self, from: &[StepIx], digest: Digest) -> bool {
        let (origins, passing) = self.origins(from, digest);
        let again: Vec<(StepIx, String)> =
            origins.into_iter().filter(|(o, _)| !self.rewound.contains(o)).collect();
        let mut below: Vec<StepIx> = again.iter().map(|(o, _)| *o).collect();
        while let Some(at) = below.pop() {
            for &feed in &self.prepared.graph.steps[at as usize].feeds {
                if passing.contains(&feed) && matches!(self.states[feed as usize], State::Done(..)) {
                    self.states[feed as usize] = State::Waiting;
                    below.push(feed);
                }
            }
        }
        for (origin, output) in &again {
            self.rewind(*origin, digest, output);
        }
        !again.is_empty()
    }

    /// Makes a done step run again, because a blob of its output is lost.
    fn rewind(&mut self, ix: StepIx, digest: Digest, output: &str) {
        self.rewound.insert(ix);
        self.forced[ix as usize] = true;
        let corrupt = self.store.quarantined(&digest);
        let target = self.target_name(ix);
        let how = if corrupt { "damaged; it was set aside" } else { "missing" };
        self.sink.event(&Event::Warning {
            message: format!(
                "{target}: blob {} of output {output} is {how}; it is built again",
                digest.short()
            ),
        });
        self.notes[ix as usize].reason = Reason::BlobLost { digest, output: output.into(), corrupt };
        if let Some(key) = self.notes[ix as usize].key {
            self.store.forget_result(&key);
        }
        self.states[ix as usize] = State::Ready;
        self.queue(ix);
    }

    /// For a fetch, whose promise is that all is there: makes steps whose downloads the store has lost run again. False
    /// if there is none.
    pub(super) fn fetch_lost(&mut self) -> bool {
        let steps = self.prepared.graph.steps.iter();
        let waits: Vec<StepIx> = (0..).zip(steps).filter(|(_, n)| n.step.waits()).map(|(ix, _)| ix).collect();
        let mut again = false;
        for ix in waits {
            let State::Done(result, _) = &self.states[ix as usize] else { continue };
            let lost: Vec<Digest> =
                result.outputs.values().filter_map(|o| lost_blob(self.store, o)).collect();
            for digest in lost {
                again |= self.rewind_origins(&[ix], digest);
            }
        }
        again
    }

    pub(super) fn reset_below(&mut self, ix: StepIx) {
        let mut stack = self.prepared.graph.steps[ix as usize].feeds.clone();
        while let Some(below) = stack.pop() {
            if matches!(self.states[below as usize], State::Done(..) | State::Ready) {
                self.states[below as usize] = State::Waiting;
                stack.extend(&self.prepared.graph.steps[below as usize].feeds);
            }
        }
    }

    /// A workspace file changed after it was hashed: the step fails with a request to build again, since
    /// other steps may have used the old content.
    pub(super) fn changed(&mut self, ix: StepIx, path: &str) {
        let error = StepError::new(format!("{path} changed while it was being built"))
            .help("nothing was stored for it; run the build again");
        self.fail(ix, error, Vec::new(), None);
    }
}

/// A blob that an output needs and the store does not have.
pub(super) fn lost_blob(store: &Store, output: &Output) -> Option<Digest> {
    match output.kind {
        OutputKind::File { .. } => store.blob_path(&output.digest).is_err().then_some(output.digest),
        OutputKind::Tree => match store.get_tree(&output.digest) {
            Ok(tree) => store.lost_blobs(&tree).into_keys().next(),
            Err(_) => Some(output.digest),
        },
    }
}

/// The output that needs the blob: the file itself, the encoded tree, or a file of the tree.
fn output_with(store: &Store, result: &ActionResult, blob: Digest) -> Option<String> {
    let needs = |o: &Output| {
        if o.digest == blob {
            return true;
        }
        match o.kind {
            OutputKind::File { .. } => false,
            // A tree that cannot be read any more is lost itself.
            OutputKind::Tree => store.get_tree(&o.digest).map_or(true, |tree| {
                tree.iter().any(|e| matches!(e.node, Node::File { digest, .. } if digest == blob))
            }),
        }
    };
    result.outputs.iter().find(|(_, o)| needs(o)).map(|(name, _)| name.clone())
}
