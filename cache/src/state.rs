//! A workspace's sled database: a rebuildable index of a few large values. Missing, locked, damaged or of another
//! version, it is left behind and an empty one is used; it is never an error. Knows not what the values mean.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::Digest;

const VERSION: &[u8; 4] = b"ms01";

/// The opened database, or what stands for it.
pub struct State {
    db: Option<sled::Db>,
    degraded: Option<String>,
}

impl State {
    /// Opens the database of a `.mosbuild`.
    pub fn open(dir: &Path) -> State {
        let path = dir.join("state");
        match open_waiting(&path).map(|db| compacted(db, &path)) {
            Ok(db) => State { db, degraded: None },
            Err(reason) if locked(&reason) => State {
                db: None,
                degraded: Some("the workspace's index is in use by another process".into()),
            },
            Err(reason) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
                let bad = dir.join(format!("state.bad-{now}"));
                let moved = std::fs::rename(&path, &bad);
                let degraded = match moved {
                    Ok(()) => format!(
                        "the workspace's index was damaged ({reason}) and is kept as {}",
                        bad.display()
                    ),
                    Err(_) => format!("the workspace's index cannot be opened ({reason})"),
                };
                State { db: try_open(&path).ok(), degraded: Some(degraded) }
            }
        }
    }

    /// Without a database: for commands that only read while another process builds.
    pub fn none() -> State {
        State { db: None, degraded: None }
    }

    /// Why the next run may be slower.
    pub fn degraded(&self) -> Option<String> {
        self.degraded.clone()
    }

    /// A value; `None` if it is missing, damaged or of another version.
    pub fn get(&self, name: &str) -> Option<Vec<u8>> {
        let db = self.db.as_ref()?;
        let value = catch_unwind(AssertUnwindSafe(|| db.get(name))).ok()?.ok()??;
        let (sum, body) = value.strip_prefix(VERSION)?.split_at_checked(32)?;
        (Digest::of(body).0 == sum).then(|| body.to_vec())
    }

    /// Sets a value; a database that refuses it is only slower next time.
    pub fn put(&self, name: &str, value: &[u8]) {
        if let Some(db) = &self.db {
            let framed = [&VERSION[..], &Digest::of(value).0, value].concat();
            let _ = catch_unwind(AssertUnwindSafe(|| db.insert(name, framed)));
        }
    }

    /// Writes what was set to disk.
    pub fn flush(&self) {
        if let Some(db) = &self.db {
            let _ = catch_unwind(AssertUnwindSafe(|| db.flush()));
        }
    }
}

fn locked(reason: &str) -> bool {
    reason.contains("could not acquire lock") || reason.contains("WouldBlock")
}

/// Waits a little for the lock: sled's threads may hold it for some milliseconds after its owner has closed.
fn open_waiting(path: &Path) -> Result<sled::Db, String> {
    for _ in 0..10 {
        match try_open(path) {
            Err(reason) if locked(&reason) => std::thread::sleep(Duration::from_millis(10)),
            other => return other,
        }
    }
    try_open(path)
}

/// A database of fewer bytes than this is left as it is.
const SMALL: u64 = 16 << 20;

/// sled 0.34 never gives back the room of large values that were replaced. When these take most of the room the
/// database is written anew; values that could not be kept cost time in one build.
fn compacted(db: sled::Db, path: &Path) -> Option<sled::Db> {
    let values = || db.iter().flatten().map(|(name, value)| (name.to_vec(), value.to_vec()));
    let live: u64 = values().map(|(_, value)| value.len() as u64).sum();
    if size(path) < SMALL.max(4 * live) {
        return Some(db);
    }
    let kept: Vec<(Vec<u8>, Vec<u8>)> = values().collect();
    // Closing it gives back its lock. A process that opens it right then loses what it writes: it builds slower next time.
    drop(db);
    let old = path.with_extension("old");
    let _ = std::fs::remove_dir_all(&old);
    std::fs::rename(path, &old).ok()?;
    let db = try_open(path).ok();
    for (name, value) in kept {
        if let Some(db) = &db {
            let _ = catch_unwind(AssertUnwindSafe(|| db.insert(name, value)));
        }
    }
    let _ = std::fs::remove_dir_all(&old);
    db
}

/// Bytes of all files below a directory.
fn size(dir: &Path) -> u64 {
    let Ok(listed) = std::fs::read_dir(dir) else { return 0 };
    let of = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => size(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    };
    listed.flatten().map(of).sum()
}

fn try_open(path: &Path) -> Result<sled::Db, String> {
    let open = || {
        let config = sled::Config::default()
            .path(path)
            .cache_capacity(32 << 20)
            .mode(sled::Mode::LowSpace)
            .flush_every_ms(None);
        let db = config.open()?;
        // The first read finds damage that opening did not.
        for value in db.iter() {
            value?;
        }
        Ok::<_, sled::Error>(db)
    };
    // sled 0.34 panics on some damaged files; the message is its own and would only alarm.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let opened = catch_unwind(AssertUnwindSafe(open));
    std::panic::set_hook(hook);
    match opened {
        Ok(Ok(db)) => Ok(db),
        Ok(Err(e)) => Err(e.to_string()),
        Err(_) => Err("sled gave up".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_back_after_a_flush() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path());
        state.put("a", &vec![7; 100_000]);
        state.flush();
        drop(state);
        let state = State::open(dir.path());
        assert_eq!(state.get("a"), Some(vec![7; 100_000]));
        assert_eq!((state.get("b"), state.degraded()), (None, None));
    }

    #[test]
    fn a_locked_database_is_done_without() {
        let dir = tempfile::tempdir().unwrap();
        let first = State::open(dir.path());
        first.put("a", b"1");
        let second = State::open(dir.path());
        assert!(second.degraded().unwrap().contains("in use"), "{:?}", second.degraded());
        assert_eq!(second.get("a"), None);
        second.put("a", b"2");
        assert_eq!(first.get("a").as_deref(), Some(&b"1"[..]));
    }

    #[test]
    fn replaced_values_do_not_fill_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let value = |n: u8| {
            (0..1_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8 ^ n).collect::<Vec<u8>>()
        };
        for n in 0..60u8 {
            let state = State::open(dir.path());
            assert_eq!(state.degraded(), None, "{n}");
            assert_eq!(state.get("large"), n.checked_sub(1).map(value), "{n}");
            assert_eq!(state.get("small").is_some(), n > 0, "{n}");
            state.put("large", &value(n));
            state.put("small", b"kept");
            state.flush();
        }
        let size = size(&dir.path().join("state"));
        assert!(size < SMALL + 4_000_000, "{size} bytes for one million");
    }

    #[test]
    fn a_damaged_database_is_left_behind() {
        for damage in ["truncate", "zero", "noise"] {
            let dir = tempfile::tempdir().unwrap();
            let state = State::open(dir.path());
            (0..50).for_each(|i| state.put(&format!("k{i}"), &vec![i as u8; 10_000]));
            state.flush();
            drop(state);
            let file = dir.path().join("state/db");
            let mut bytes = std::fs::read(&file).unwrap();
            let half = bytes.len() / 2;
            match damage {
                "truncate" => bytes.truncate(half),
                "zero" => bytes[half..].fill(0),
                _ => bytes.iter_mut().step_by(97).for_each(|b| *b ^= 0x55),
            }
            std::fs::write(&file, bytes).unwrap();
            let state = State::open(dir.path());
            for i in 0..50 {
                let value = state.get(&format!("k{i}"));
                assert!(value.is_none_or(|v| v == vec![i as u8; 10_000]), "{damage}: a wrong value");
            }
            state.put("new", b"works");
            assert_eq!(state.get("new").as_deref(), Some(&b"works"[..]), "{damage}");
        }
    }
}
