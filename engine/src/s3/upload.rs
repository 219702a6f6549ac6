//! A large file in parts. What has been sent is written down here, so that a run after a kill sends the rest.
//! Knows no reason why a file is uploaded.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use object_store::multipart::{MultipartStore, PartId};
use object_store::{Attribute, Attributes, PutMultipartOptions, PutPayload};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::{Bucket, Key, S3Error, S3ErrorKind, parse};
use crate::fetch::Watch;

/// Bytes of a part; servers want 5 MiB or more of each but the last, and take 10,000.
const PART: u64 = 8 << 20;
/// Parts on their way at once.
const AT_ONCE: usize = 3;

/// A file to be uploaded.
#[derive(Clone, Debug)]
pub struct Upload<'a> {
    /// The file; it must not change.
    pub file: &'a Path,
    /// Its bytes.
    pub size: u64,
    /// A digest of them: another one begins anew.
    pub digest: &'a str,
    /// Media type.
    pub kind: &'static str,
    /// A file, for this key alone, where the parts that were sent are noted.
    pub notes: &'a Path,
}

/// Parts that the server has.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Notes {
    place: String,
    key: String,
    digest: String,
    size: u64,
    part: u64,
    upload: String,
    /// The ETag of each part.
    sent: Vec<Option<String>>,
}

impl Notes {
    fn read(path: &Path) -> Option<Notes> {
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }

    /// A note that cannot be written costs the sending of a part again.
    fn write(&self, path: &Path) {
        let write = || -> io::Result<()> {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            let mut name = path.as_os_str().to_owned();
            name.push(".new");
            let new = PathBuf::from(name);
            fs::write(&new, serde_json::to_vec(self)?)?;
            fs::rename(&new, path)
        };
        let _ = write();
    }
}

/// What a try came to.
enum Outcome {
    /// The object is there: this one.
    Done,
    /// There is another of its name, or this one, if an answer was lost.
    Taken,
    /// The server does not know the upload that was noted.
    Forgotten,
}

impl Bucket {
    /// Uploads a file if there is no object of this key: in one piece, or if it is large in parts, those left out that an
    /// earlier call has sent. `false`: there is an object now, which may be this one, if an answer was lost.
    pub fn upload(&self, key: &str, upload: &Upload<'_>, watch: &dyn Watch) -> Result<bool, S3Error> {
        let path = parse(key)?;
        let unreadable =
            |e: io::Error| S3Error::new(S3ErrorKind::Local, format!("{}: {e}", upload.file.display()));
        let file = File::open(upload.file).map_err(unreadable)?;
        if upload.size <= PART {
            let bytes = part(&file, 0, upload.size).map_err(unreadable)?;
            return self.put_if_absent(key, bytes, upload.kind, watch);
        }
        let file = Arc::new(file);
        // A noted upload that the server has dropped in the meantime is begun again once.
        for _ in 0..2 {
            match self.wait(self.in_parts(key, &path, &file, upload, watch))? {
                Outcome::Done => return Ok(true),
                Outcome::Taken => return Ok(false),
                Outcome::Forgotten => {
                    // Completed by a call whose answer was lost?
                    if self.exists(key, watch)? {
                        return Ok(false);
                    }
                }
            }
        }
        let why = format!("writing {key}: {} loses the upload's parts", self.place);
        Err(S3Error::new(S3ErrorKind::Refused, why))
    }

    async fn in_parts(
        &self,
        key: &str,
        path: &Key,
        file: &Arc<File>,
        upload: &Upload<'_>,
        watch: &dyn Watch,
    ) -> Result<Outcome, S3Error> {
        let what = format!("writing {key}");
        let count = upload.size.div_ceil(PART) as usize;
        let noted = Notes::read(upload.notes).filter(|n| n.place == self.place && n.key == key);
        let resumes = |n: &Notes| {
            (n.digest.as_str(), n.size, n.part, n.sent.len()) == (upload.digest, upload.size, PART, count)
        };
        let mut notes = match noted {
            Some(notes) if resumes(&notes) => {
                let sent = notes.sent.iter().flatten().count();
                watch.say(&format!("{key}: {sent} of {count} parts are there already"));
                notes
            }
            other => {
                if let Some(old) = other {
                    // Of other bytes: its parts would be kept, and paid for, for ever.
                    let _ = self.guard(self.store.abort_multipart(path, &old.upload), watch).await?;
                }
                let attributes = Attributes::from_iter([(Attribute::ContentType, upload.kind)]);
                let options = PutMultipartOptions { attributes, ..PutMultipartOptions::default() };
                let id = self.guard(self.store.create_multipart_opts(path, options), watch).await?;
                let notes = Notes {
                    place: self.place.clone(),
                    key: key.to_owned(),
                    digest: upload.digest.to_owned(),
                    size: upload.size,
                    part: PART,
                    upload: id.map_err(|e| self.error(&what, &e))?,
                    sent: vec![None; count],
                };
                notes.write(upload.notes);
                notes
            }
        };

        let missing: Vec<usize> = (0..count).filter(|n| notes.sent[*n].is_none()).collect();
        let mut missing = missing.into_iter();
        let mut under_way = JoinSet::new();
        loop {
            while under_way.len() < AT_ONCE
                && let Some(n) = missing.next()
            {
                let (store, path, id) = (self.store.clone(), path.clone(), notes.upload.clone());
                let (file, size) = (file.clone(), upload.size);
                under_way.spawn(async move {
                    let start = n as u64 * PART;
                    let bytes = match part(&file, start, PART.min(size - start)) {
                        Ok(bytes) => bytes,
                        Err(e) => return (n, Err(PartError::Local(e))),
                    };
                    let sent = store.put_part(&path, &id, n, PutPayload::from(bytes)).await;
                    (n, sent.map_err(|e| PartError::Server(Box::new(e))))
                });
            }
            let Some(next) = self.guard(under_way.join_next(), watch).await? else { break };
            match next {
                Ok((n, Ok(PartId { content_id }))) => {
                    notes.sent[n] = Some(content_id);
                    notes.write(upload.notes);
                    let sent = notes.sent.iter().flatten().count() as u64 * PART;
                    watch.progress(key, sent.min(upload.size), Some(upload.size));
                }
                Ok((_, Err(PartError::Server(e)))) if matches!(*e, object_store::Error::NotFound { .. }) => {
                    return self.forgotten(&what, upload, watch).await;
                }
                Ok((_, Err(PartError::Server(e)))) => return Err(self.error(&what, &e)),
                Ok((_, Err(PartError::Local(e)))) => {
                    let why = format!("{}: {e}", upload.file.display());
                    return Err(S3Error::new(S3ErrorKind::Local, why));
                }
                Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
                Err(_) => return Err(S3Error::cancelled()),
            }
        }

        let parts = notes.sent.iter().flatten().map(|id| PartId { content_id: id.clone() }).collect();
        match self.guard(self.store.complete_multipart(path, &notes.upload, parts), watch).await? {
            Ok(_) => {
                let _ = fs::remove_file(upload.notes);
                Ok(Outcome::Done)
            }
            Err(object_store::Error::Precondition { .. } | object_store::Error::AlreadyExists { .. }) => {
                let _ = self.guard(self.store.abort_multipart(path, &notes.upload), watch).await?;
                let _ = fs::remove_file(upload.notes);
                Ok(Outcome::Taken)
            }
            Err(object_store::Error::NotFound { .. }) => self.forgotten(&what, upload, watch).await,
            Err(e) => Err(self.error(&what, &e)),
        }
    }

    async fn forgotten(
        &self,
        what: &str,
        upload: &Upload<'_>,
        watch: &dyn Watch,
    ) -> Result<Outcome, S3Error> {
        let _ = fs::remove_file(upload.notes);
        self.absent::<()>(what, watch).await?;
        Ok(Outcome::Forgotten)
    }
}

enum PartError {
    Local(io::Error),
    Server(Box<object_store::Error>),
}

fn part(file: &File, start: u64, size: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; size as usize];
    file.read_exact_at(&mut bytes, start)?;
    Ok(bytes)
}
