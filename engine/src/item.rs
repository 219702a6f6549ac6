//! Pieces of a builtin's work that have keys and results of their own, and the host's tools that a builtin may run.
//! What is made of one file is so known in every later build, whichever tree the file is in. Knows no scheduler:
//! build/items.rs looks up, runs and stores.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use mosbuild_cache::{ActionResult, Digest, Output};

use crate::action::{BuiltinCx, Made, StepError};
use crate::rooted::Answer;

/// What a builtin does with each item of a batch. The key of an item is made of what these methods give and of the
/// item's content: not of its name, and of nothing else.
pub trait ItemWork: Sync {
    /// Stable name, in the key and in events: `strip`.
    fn name(&self) -> &'static str;
    /// Raised whenever the same item gives another result; in the key.
    fn version(&self) -> u32;
    /// What decides the result beside the item; in the key.
    fn params(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }
    /// Host tools that it runs, of those that the builtin declares ([`crate::action::Builtin::tools`]); what they are
    /// is in the key.
    fn tools(&self) -> &'static [&'static str] {
        &[]
    }
    /// Does the work on one item. Must depend on nothing but the item's content, the params and the tools.
    fn run(&self, cx: &BuiltinCx<'_>, item: &Item) -> Result<Made, StepError>;
}

/// One file to be worked on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// What people call it: its path in the tree. Not in the key.
    pub name: String,
    /// Its content: a blob of the store.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
}

/// What became of the items.
#[derive(Debug, Default)]
pub struct Batch {
    /// The results, in the order of the items.
    pub results: Vec<Arc<ActionResult>>,
    /// How many pieces of work were done now.
    pub ran: usize,
    /// How many items were known, or had the content of another.
    pub known: usize,
}

/// A program of the host to be run in a sandbox that holds nothing but its inputs.
#[derive(Clone, Debug, Default)]
pub struct ToolRun {
    /// The programs on its PATH beside the host's Essential ones: of those that the builtin declares.
    pub tools: &'static [&'static str],
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Blobs, read-only: what and whether executable, at `/build/in/NAME`.
    pub inputs: Vec<(Digest, bool, String)>,
}

/// Where a [`ToolRun`] finds its inputs.
pub const INPUT_DIR: &str = "/build/in";

/// What a tool left.
pub struct ToolOutcome {
    /// Exit code and output.
    pub answer: Answer,
    /// The host's folder behind `$OUT`, which is [`crate::action::OUT_DIR`] inside.
    pub out: PathBuf,
    /// Removes it.
    pub(crate) _scratch: Option<mosbuild_cache::Scratch>,
}

/// What the last success of a step had and made. For texts only: it is in no key and may not decide a result.
#[derive(Clone, Debug, Default)]
pub struct Previous {
    /// Outputs by name.
    pub outputs: BTreeMap<String, Output>,
    /// Digests of inputs that were outputs of other steps, by name.
    pub inputs: BTreeMap<String, Digest>,
}

/// What a builtin may ask of the build that it is part of.
pub trait Services: Sync {
    /// See [`BuiltinCx::batch`].
    fn batch(&self, cx: &BuiltinCx<'_>, work: &dyn ItemWork, items: &[Item]) -> Result<Batch, StepError>;
    /// See [`BuiltinCx::run_tool`].
    fn run_tool(&self, cx: &BuiltinCx<'_>, run: &ToolRun) -> Result<ToolOutcome, StepError>;
    /// See [`BuiltinCx::previous`].
    fn previous(&self) -> Option<Previous>;
}

/// Where there is no build: nothing is known of any item, there are no tools and nothing was built before.
pub struct NoServices;

impl Services for NoServices {
    fn batch(&self, cx: &BuiltinCx<'_>, work: &dyn ItemWork, items: &[Item]) -> Result<Batch, StepError> {
        let mut batch = Batch::default();
        for item in items {
            let made = work.run(cx, item)?;
            batch.results.push(Arc::new(result(Digest([0; 32]), made, 0, String::new(), true)));
            batch.ran += 1;
        }
        Ok(batch)
    }

    fn run_tool(&self, _: &BuiltinCx<'_>, run: &ToolRun) -> Result<ToolOutcome, StepError> {
        Err(StepError::new(format!("{} cannot be run outside of a build", run.argv.join(" "))))
    }

    fn previous(&self) -> Option<Previous> {
        None
    }
}

/// What is stored of an item.
pub(crate) fn result(key: Digest, made: Made, millis: u64, run: String, local: bool) -> ActionResult {
    ActionResult {
        key,
        outputs: made.outputs,
        facts: made.facts,
        log: None,
        notes: made.notes,
        sandboxed: true,
        local,
        millis,
        run,
    }
}

impl BuiltinCx<'_> {
    /// Does a piece of work on each item whose result is not known yet, several at once as far as there are free slots.
    /// Items of equal content are one piece of work. A known result of which a blob is lost is done anew.
    pub fn batch(&self, work: &dyn ItemWork, items: &[Item]) -> Result<Batch, StepError> {
        self.services.batch(self, work, items)
    }

    /// Runs a program of the host. That it fails is an answer, not an error.
    pub fn run_tool(&self, run: &ToolRun) -> Result<ToolOutcome, StepError> {
        self.services.run_tool(self, run)
    }

    /// What the last success of this step had and made, for error texts. None if there was none in this workspace, or
    /// the store has lost it.
    pub fn previous(&self) -> Option<Previous> {
        self.services.previous()
    }
}
