//! Many files into the store, beside whoever reads them out of one stream.
//! Knows the store; does not know where the files come from.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use mosbuild_cache::{Digest, Store};
use mosbuild_engine::action::StepError;

/// Files are stored in batches of this many bytes, beside the reading.
const BATCH: usize = 8 << 20;
/// Files in a batch, however small they are.
const FILES: usize = 4096;
/// Batches that may wait; beyond it the reading thread stores them itself.
const WAITING: usize = 16;

/// What `read` puts is stored by other threads meanwhile: digest and size of each, in no order. `put` tells that the
/// build was interrupted.
pub fn store_beside<F: Send, E: From<StepError>>(
    store: &Store,
    cancelled: &(dyn Fn() -> bool + Sync),
    read: impl FnOnce(&mut dyn FnMut(F, Vec<u8>) -> Result<(), StepError>) -> Result<(), E>,
) -> Result<Vec<(F, Digest, u64)>, E> {
    let done = Mutex::new(Ok::<Vec<_>, StepError>(Vec::new()));
    let waiting = AtomicUsize::new(0);
    let store_batch = |batch: Vec<(F, Vec<u8>)>| {
        let one = |(file, bytes): (F, Vec<u8>)| Ok((file, store.put_bytes(&bytes)?, bytes.len() as u64));
        let stored: Result<Vec<_>, StepError> = batch.into_iter().map(one).collect();
        if let Ok(mut done) = done.lock() {
            match (&mut *done, stored) {
                (Ok(all), Ok(stored)) => all.extend(stored),
                (Ok(_), Err(e)) => *done = Err(e),
                (Err(_), _) => {}
            }
        }
    };
    let (store_batch, waiting) = (&store_batch, &waiting);
    rayon::in_place_scope(|scope| {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        let mut put = |file: F, content: Vec<u8>| {
            bytes += content.len();
            batch.push((file, content));
            if bytes < BATCH && batch.len() < FILES {
                return Ok(());
            }
            if cancelled() {
                return Err(StepError::new("it was interrupted"));
            }
            bytes = 0;
            let full = std::mem::take(&mut batch);
            if waiting.load(Ordering::Relaxed) < WAITING {
                waiting.fetch_add(1, Ordering::Relaxed);
                scope.spawn(move |_| {
                    store_batch(full);
                    waiting.fetch_sub(1, Ordering::Relaxed);
                });
            } else {
                store_batch(full);
            }
            Ok(())
        };
        read(&mut put)?;
        store_batch(batch);
        Ok::<(), E>(())
    })?;
    let done = done.into_inner().unwrap_or_else(|_| Err(StepError::new("a storing thread failed")));
    done.map_err(E::from)
}
