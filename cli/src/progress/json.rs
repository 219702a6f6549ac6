//! `--events`: every event as one line of JSON, to a file or to stdout.

use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Mutex;

use mosbuild_engine::events::{Event, Sink};

use crate::failure::Failure;

struct Output {
    to: BufWriter<Box<dyn Write + Send>>,
    /// The first error; nothing is written behind it.
    error: Option<std::io::Error>,
    /// An error was handed out: nothing more is written, and nothing more is said of it.
    told: bool,
}

/// Writes events as JSON lines.
pub struct JsonLines(Mutex<Output>);

impl JsonLines {
    /// To a file, made anew, or to stdout for `-`.
    pub fn open(path: &Path) -> Result<JsonLines, Failure> {
        let to: Box<dyn Write + Send> = match path.as_os_str() == "-" {
            true => Box::new(std::io::stdout()),
            false => {
                let file = std::fs::File::create(path);
                Box::new(file.map_err(|e| Failure::usage(format!("--events {}: {e}", path.display())))?)
            }
        };
        Ok(JsonLines::to(to))
    }

    fn to(to: Box<dyn Write + Send>) -> JsonLines {
        JsonLines(Mutex::new(Output { to: BufWriter::with_capacity(1 << 16, to), error: None, told: false }))
    }

    /// Writes out what is left; the first error of all, once, unless the reader has only gone away.
    pub fn finish(&self) -> Option<String> {
        let mut output = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if output.told {
            return None;
        }
        let flushed = output.to.flush();
        let error = output.error.take().or(flushed.err())?;
        output.told = true;
        (error.kind() != std::io::ErrorKind::BrokenPipe).then(|| format!("--events: {error}"))
    }
}

impl Sink for JsonLines {
    fn event(&self, event: &Event) {
        let Ok(mut line) = serde_json::to_vec(event) else { return };
        line.push(b'\n');
        let mut output = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if output.error.is_some() || output.told {
            return;
        }
        let mut written = output.to.write_all(&line);
        // Whoever follows the file sees steps start and end at once; ten thousand hits are not flushed singly.
        let frequent = matches!(
            event,
            Event::StepHit { .. }
                | Event::StepOutput { .. }
                | Event::ItemFinished { .. }
                | Event::TargetFinished { .. }
                | Event::Download { .. }
                | Event::Image { .. }
        );
        if !frequent {
            written = written.and_then(|()| output.to.flush());
        }
        output.error = written.err();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    struct Full;

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn one_object_a_line_with_the_kind_first() {
        let shared = Shared::default();
        let sink = JsonLines::to(Box::new(shared.clone()));
        sink.event(&Event::Warning { message: "two\nlines".into() });
        sink.event(&Event::SkippedBecause { target: "x".into(), failed: "y".into() });
        assert_eq!(sink.finish(), None);
        let text = String::from_utf8(shared.0.lock().unwrap().clone()).unwrap();
        assert_eq!(
            text,
            "{\"event\":\"warning\",\"message\":\"two\\nlines\"}\n\
             {\"event\":\"skipped_because\",\"target\":\"x\",\"failed\":\"y\"}\n"
        );
    }

    #[test]
    fn a_full_disk_is_told_once_at_the_end() {
        let sink = JsonLines::to(Box::new(Full));
        sink.event(&Event::Warning { message: "a".into() });
        sink.event(&Event::Warning { message: "b".into() });
        assert!(sink.finish().unwrap().starts_with("--events: "));
    }
}
