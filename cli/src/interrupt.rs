//! Interrupts before the first step of a build runs: while another build is waited for, while the workspace is planned
//! and hashed. From then on a build ends itself in order, and nothing is done here. Knows no build.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use rustix::process::{Pid, kill_process};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::ui::Ui;

/// A step has started: whoever runs it ends it.
static HANDED_OVER: AtomicBool = AtomicBool::new(false);
/// Who is to be interrupted in place of this process.
static CHILD: AtomicU32 = AtomicU32::new(0);
static PASSED_ON: AtomicBool = AtomicBool::new(false);

/// From now on somebody else deals with interrupts.
pub fn hand_over() {
    HANDED_OVER.store(true, Ordering::SeqCst);
}

/// From now on an interrupt ends this process again, as it did before [`hand_over`].
pub fn take_back() {
    HANDED_OVER.store(false, Ordering::SeqCst);
}

/// Hands interrupts on to a child process, which ends in order and is waited for; 0: to nobody any more.
pub fn pass_on_to(child: u32) {
    CHILD.store(child, Ordering::SeqCst);
}

/// Whether an interrupt was handed on.
pub fn passed_on() -> bool {
    PASSED_ON.load(Ordering::SeqCst)
}

fn passes_on() -> bool {
    let child = i32::try_from(CHILD.load(Ordering::SeqCst)).ok().and_then(Pid::from_raw);
    let Some(child) = child else { return false };
    PASSED_ON.store(true, Ordering::SeqCst);
    // From a terminal it has come to the child as well, which bears it.
    let _ = kill_process(child, rustix::process::Signal::INT);
    true
}

/// From now on ends this process with exit code 130 if it is interrupted before [`hand_over`]. On a host that refuses
/// what this needs, the signal ends it.
pub fn watch(ui: &Ui) {
    // Listening begins here, not when the thread comes to it.
    let Ok((runtime, signals)) = listen() else { return };
    let ui = ui.clone();
    let _ = std::thread::Builder::new().name("interrupts".into()).spawn(move || {
        let [mut interrupt, mut terminate] = signals;
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if passes_on() {
                    continue;
                }
                if !HANDED_OVER.load(Ordering::SeqCst) {
                    // Nothing runs, and what is half-written is nobody's: the kernel drops the locks.
                    ui.note("interrupted");
                    std::process::exit(130);
                }
            }
        });
    });
}

fn listen() -> std::io::Result<(Runtime, [Signal; 2])> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let signals = {
        let _inside = runtime.enter();
        [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?]
    };
    Ok((runtime, signals))
}
