//! A kernel that takes no time: it prints a text on the serial console, and then whatever is typed there.
//! And a terminal for programs that want one. Knows x86's boot protocol; nothing of mosbuild.

use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// An image in the form of a bzImage (Documentation/arch/x86/boot.rst of the kernel) that never leaves real mode.
pub fn kernel(text: &str) -> Vec<u8> {
    // Within the setup code, which begins at 0x200 of the file and is entered there.
    const CODE: usize = 0x68;
    const PRINT: [u8; 28] = [
        0xbe, 0x84, 0x00, // mov si, text
        0xba, 0xf8, 0x03, // mov dx, 0x3f8
        0x2e, 0xac, // lodsb cs:
        0x84, 0xc0, // test al, al
        0x74, 0x03, // jz +3
        0xee, // out dx, al
        0xeb, 0xf7, // jmp to lodsb
        0xba, 0xfd, 0x03, // mov dx, 0x3fd
        0xec, // in al, dx
        0xa8, 0x01, // test al, 1
        0x74, 0xf8, // jz to mov dx, 0x3fd
        0xba, 0xf8, 0x03, // mov dx, 0x3f8
        0xec, // in al, dx
        0xee, // out dx, al
    ];
    let mut code = PRINT.to_vec();
    code.extend([0xeb, 0xef]); // jmp to mov dx, 0x3fd
    code[1] = (CODE + code.len()) as u8;
    code.extend(text.replace('\n', "\r\n").bytes());
    code.push(0);
    let mut image = vec![0; 0x200 + CODE];
    let sectors = (CODE + code.len()).div_ceil(512);
    image[0x1f1] = sectors as u8;
    image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    image[0x200..0x202].copy_from_slice(&[0xeb, (CODE - 2) as u8]);
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&0x0203u16.to_le_bytes());
    image[0x211] = 1; // loaded high
    image.extend(code);
    // What would be the kernel itself.
    image.resize(512 * (1 + sectors) + 4096, 0);
    image
}

/// A program on a terminal of its own, by way of script(1).
pub struct Terminal {
    child: Child,
    output: Receiver<Vec<u8>>,
    seen: String,
}

impl Terminal {
    /// Starts it; words may not have quotes in them.
    pub fn start(command: &Command) -> Terminal {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let line: Vec<String> = words.map(|w| format!("'{}'", w.to_string_lossy())).collect();
        let mut script = Command::new("script");
        script.args(["-qfec", &format!("exec {}", line.join(" ")), "/dev/null"]).env_clear();
        for (name, value) in command.get_envs() {
            if let Some(value) = value {
                script.env(name, value);
            }
        }
        script.env("SHELL", "/bin/sh").stdin(Stdio::piped()).stdout(Stdio::piped());
        if let Some(dir) = command.get_current_dir() {
            script.current_dir(dir);
        }
        let mut child = script.spawn().unwrap();
        let mut from = child.stdout.take().unwrap();
        let (to, output) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                if to.send(buffer[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Terminal { child, output, seen: String::new() }
    }

    /// Waits until all that was printed has this text in it.
    pub fn wait_for(&mut self, text: &str, patience: Duration) {
        let end = Instant::now() + patience;
        while !self.seen.contains(text) {
            let left = end.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(e) => panic!("no {text:?} ({e}) in:\n{}", self.seen),
            }
        }
    }

    /// Types this.
    pub fn types(&mut self, text: &str) {
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(text.as_bytes()).and_then(|()| stdin.flush()).unwrap();
    }

    /// Waits for the end of the program; how it ended, and all that it printed.
    pub fn finish(mut self, patience: Duration) -> (ExitStatus, String) {
        let end = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                while let Ok(bytes) = self.output.recv_timeout(Duration::from_millis(200)) {
                    self.seen.push_str(&String::from_utf8_lossy(&bytes));
                }
                return (status, std::mem::take(&mut self.seen));
            }
            assert!(Instant::now() < end, "it does not end:\n{}", self.seen);
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
