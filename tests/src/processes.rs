//! Finds processes by an argument that no other process has, and sends signals.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A number that can stand as an argument of `sleep` and be found in /proc.
pub struct Marker(String);

impl Marker {
    /// A new one; as seconds it is far longer than any test.
    pub fn new() -> Marker {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        Marker(format!("{}", 10_000_000_000u64 + u64::from(std::process::id()) * 1000 + u64::from(n)))
    }

    /// As the argument.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// Processes that have it as an argument of its own.
    pub fn processes(&self) -> Vec<u32> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else { continue };
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            if line.split(|b| *b == 0).any(|word| word == self.0.as_bytes()) {
                found.push(pid);
            }
        }
        found
    }
}

impl Default for Marker {
    fn default() -> Self {
        Marker::new()
    }
}

/// Sends a signal to a process by the signal's name, `INT`.
pub fn signal(pid: u32, name: &str) {
    let status = Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status().unwrap();
    assert!(status.success(), "kill -{name} {pid}");
}
