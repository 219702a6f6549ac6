//! The terminal as indicatif draws on it, one write a frame. Knows nothing of what is drawn.
//!
//! indicatif fills each line up to the edge, so that the edge wraps it. A Ctrl-C is echoed as `^C` behind the last
//! line; at the edge the echo would begin a new line, and all later drawing would be off by one. So lines end with
//! their text here, and with a newline before the next one.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::sync::{Mutex, MutexGuard, PoisonError};

use indicatif::TermLike;

/// Columns left free for the echo.
const FREE: usize = 4;

/// Stderr as a terminal.
#[derive(Debug, Default)]
pub struct Terminal(Mutex<Frame>);

/// What is to be written next.
#[derive(Debug, Default)]
struct Frame {
    text: String,
    /// The next piece only fills a line up.
    filler: bool,
    /// A line was written in this frame; another one begins on a new line.
    line: bool,
}

impl Terminal {
    fn frame(&self) -> MutexGuard<'_, Frame> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Frame {
    /// indicatif writes a line in two pieces: its text, then what fills it up.
    fn piece(&mut self, text: &str) {
        if std::mem::replace(&mut self.filler, false) {
            return;
        }
        if self.line {
            self.text.push_str("\r\n");
        }
        self.text.push_str(text);
        (self.line, self.filler) = (true, true);
    }

    fn control(&mut self, count: usize, letter: char) {
        (self.line, self.filler) = (false, false);
        if count > 0 {
            // Writing to a String does not fail.
            let _ = write!(self.text, "\x1b[{count}{letter}");
        }
    }

    fn take(&mut self) -> String {
        (self.line, self.filler) = (false, false);
        std::mem::take(&mut self.text)
    }
}

impl TermLike for Terminal {
    fn width(&self) -> u16 {
        size().0
    }
    fn height(&self) -> u16 {
        size().1
    }
    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        self.frame().control(n, 'A');
        Ok(())
    }
    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        self.frame().control(n, 'B');
        Ok(())
    }
    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        self.frame().control(n, 'C');
        Ok(())
    }
    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        self.frame().control(n, 'D');
        Ok(())
    }
    fn write_line(&self, s: &str) -> io::Result<()> {
        let mut frame = self.frame();
        frame.control(0, ' ');
        frame.text.push_str(s);
        frame.text.push_str("\r\n");
        Ok(())
    }
    fn write_str(&self, s: &str) -> io::Result<()> {
        self.frame().piece(s);
        Ok(())
    }
    fn clear_line(&self) -> io::Result<()> {
        let mut frame = self.frame();
        frame.control(0, ' ');
        frame.text.push_str("\r\x1b[2K");
        Ok(())
    }
    fn flush(&self) -> io::Result<()> {
        let text = self.frame().take();
        io::stderr().lock().write_all(text.as_bytes())
    }
}

/// Columns and rows.
fn size() -> (u16, u16) {
    let size = rustix::termios::tcgetwinsize(io::stderr());
    let or = |n: u16, default| if n == 0 { default } else { n };
    size.map_or((80, 24), |s| (or(s.ws_col, 80), or(s.ws_row, 24)))
}

/// Columns that a line may have.
pub fn usable() -> usize {
    usize::from(size().0).saturating_sub(FREE).max(20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_with_their_text() {
        let terminal = Terminal::default();
        for piece in ["one", "       ", "", "          ", "   ", "       "] {
            terminal.write_str(piece).unwrap();
        }
        assert_eq!(terminal.frame().take(), "one\r\n\r\n   ");
    }

    #[test]
    fn a_frame_begins_on_the_line_where_the_last_one_ended() {
        let terminal = Terminal::default();
        terminal.write_str("old").unwrap();
        terminal.write_str("   ").unwrap();
        terminal.frame().take();
        terminal.move_cursor_up(0).unwrap();
        terminal.clear_line().unwrap();
        terminal.move_cursor_up(2).unwrap();
        terminal.write_str("new").unwrap();
        assert_eq!(terminal.frame().take(), "\r\x1b[2K\x1b[2Anew");
    }
}
