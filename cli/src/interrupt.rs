//! Interrupts before the first step of a build runs: while another build is waited for, while the workspace is planned
//! and hashed. From then on a build ends itself in order, and nothing is done here. Knows no build.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::signal::unix::{SignalKind, signal};

use crate::ui::Ui;

/// A step has started: whoever runs it ends it.
static HANDED_OVER: AtomicBool = AtomicBool::new(false);

/// From now on somebody else deals with interrupts.
pub fn hand_over() {
    HANDED_OVER.store(true, Ordering::SeqCst);
}

/// Ends this process with exit code 130 if it is interrupted before [`hand_over`]. A host that refuses the thread
/// leaves it to the signal to end the process.
pub fn watch(ui: &Ui) {
    let ui = ui.clone();
    let watching = move || -> std::io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let (mut interrupt, mut terminate) =
                (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if !HANDED_OVER.load(Ordering::SeqCst) {
                    // Nothing runs, and what is half-written is nobody's: the kernel drops the locks.
                    ui.note("interrupted");
                    std::process::exit(130);
                }
            }
        })
    };
    let _ = std::thread::Builder::new().name("interrupts".into()).spawn(watching);
}
