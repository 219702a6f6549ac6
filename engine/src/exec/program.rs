//! A job compiled into the flat list of system calls that the child makes, every string already NUL-terminated.
//!
//! All allocation is here, before the child exists. Makes no system call itself.

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::ptr;

use super::{ExecError, HOSTNAME, Job, Mount, owners};

/// A place in the new root: its path, and the same as directory and name. Paths are relative to the root.
#[derive(Debug)]
pub(super) struct Place {
    pub path: CString,
    pub dir: CString,
    pub name: CString,
}

/// One thing to put into the new root.
#[derive(Debug)]
pub(super) enum Op {
    /// Make a directory; that it exists already is fine.
    Dir(Place),
    /// Make a symbolic link; an equal one is fine.
    Symlink(CString, Place),
    /// Make a file.
    File(Vec<u8>, Place),
    /// Graft a tree of the host.
    Bind { from: CString, to: Place, recursive: bool, attributes: u64 },
    /// Mount a file system of this type.
    Mount { kind: &'static std::ffi::CStr, to: Place, flags: u64, data: CString },
}

/// What the child does, in order.
pub(super) struct Program {
    pub ops: Vec<Op>,
    /// For each op, the path inside that it is about: for errors only.
    pub paths: Vec<PathBuf>,
    pub hostname: &'static str,
    /// The directory of the host that becomes the root; none for a root of the sandbox's own.
    pub root: Option<CString>,
    pub cwd: CString,
    /// Where the program may be, in order.
    pub candidates: Vec<CString>,
    pub argv: PointerArray,
    pub envp: PointerArray,
    pub memory: Option<u64>,
    pub open_files: Option<libc::rlimit>,
    pub interactive: bool,
}

/// A NULL-terminated array of pointers to strings that it owns.
pub(super) struct PointerArray {
    _strings: Vec<CString>,
    pointers: Vec<*const libc::c_char>,
}

impl PointerArray {
    pub fn new(strings: Vec<CString>) -> Self {
        let mut pointers: Vec<_> = strings.iter().map(|string| string.as_ptr()).collect();
        pointers.push(ptr::null());
        Self { _strings: strings, pointers }
    }

    pub fn as_ptr(&self) -> *const *const libc::c_char {
        self.pointers.as_ptr()
    }

    /// As execve and posix_spawn declare it; they do not write through it.
    pub fn as_mut_ptr(&self) -> *const *mut libc::c_char {
        self.pointers.as_ptr().cast()
    }
}

const READ_ONLY: u64 = libc::MOUNT_ATTR_RDONLY;
const NO_SUID: u64 = libc::MOUNT_ATTR_NOSUID;
const NO_DEV: u64 = libc::MOUNT_ATTR_NODEV;
const PLAIN: u64 = libc::MS_NOSUID | libc::MS_NODEV;

impl Program {
    pub fn compile(job: &Job) -> Result<Self, ExecError> {
        let mut builder = Builder::default();
        builder.base(job)?;
        for mount in &job.mounts {
            if job.root.is_some() {
                below_dev(mount.at())?;
            }
            builder.mount(mount)?;
        }
        for device in &job.extra_devices {
            builder.device(device)?;
        }
        Ok(Self {
            ops: builder.ops,
            paths: builder.paths,
            hostname: HOSTNAME,
            root: job.root.as_ref().map(|root| c_string(root.as_os_str())).transpose()?,
            cwd: c_string(job.cwd.as_os_str())?,
            candidates: candidates(job)?,
            argv: argv(job)?,
            envp: envp(job)?,
            memory: job.limits.memory,
            open_files: owners::limit_to_restore(),
            interactive: job.interactive,
        })
    }
}

/// A mount point anywhere else would be made in the job's own root, and stay there.
fn below_dev(at: &Path) -> Result<(), ExecError> {
    if at != Path::new("/dev") && at.starts_with("/dev") {
        return Ok(());
    }
    let at = at.display();
    Err(ExecError::Invalid(format!("{at}: a job with a root of its own may have mounts below /dev only")))
}

pub(super) fn argv(job: &Job) -> Result<PointerArray, ExecError> {
    Ok(PointerArray::new(job.argv.iter().map(|arg| c_string(arg)).collect::<Result<_, _>>()?))
}

pub(super) fn envp(job: &Job) -> Result<PointerArray, ExecError> {
    let join = |(name, value): &(std::ffi::OsString, std::ffi::OsString)| {
        let mut joined = name.clone();
        joined.push("=");
        joined.push(value);
        c_string(&joined)
    };
    Ok(PointerArray::new(job.env.iter().map(join).collect::<Result<_, _>>()?))
}

/// Where `argv[0]` may be, as execvp looks for it in the PATH of the job.
pub(super) fn candidates(job: &Job) -> Result<Vec<CString>, ExecError> {
    let Some(program) = job.argv.first() else {
        return Err(ExecError::Invalid("a command with an empty argv cannot be run".into()));
    };
    if program.as_bytes().contains(&b'/') {
        return Ok(vec![c_string(program)?]);
    }
    let path = job.env.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value.as_os_str());
    let folders = path.unwrap_or(OsStr::new("/usr/bin:/bin"));
    std::env::split_paths(folders).map(|folder| c_string(folder.join(program).as_os_str())).collect()
}

pub(super) fn c_string(text: &OsStr) -> Result<CString, ExecError> {
    CString::new(text.as_bytes())
        .map_err(|_| ExecError::Invalid(format!("{:?} holds a NUL byte", text.to_string_lossy())))
}

#[derive(Default)]
struct Builder {
    ops: Vec<Op>,
    paths: Vec<PathBuf>,
    made: BTreeSet<PathBuf>,
}

impl Builder {
    /// What every sandbox has: /proc, a small /dev, /tmp.
    fn base(&mut self, job: &Job) -> Result<(), ExecError> {
        let hidden = PLAIN | libc::MS_NOEXEC;
        self.file_system(c"proc", Path::new("/proc"), hidden, "")?;
        if job.root.is_some() {
            self.file_system(c"tmpfs", Path::new("/dev"), PLAIN, "mode=0755")?;
        }
        for device in ["null", "zero", "full", "random", "urandom", "tty"] {
            self.device(&Path::new("/dev").join(device))?;
        }
        for (name, target) in [
            ("fd", "/proc/self/fd"),
            ("stdin", "/proc/self/fd/0"),
            ("stdout", "/proc/self/fd/1"),
            ("stderr", "/proc/self/fd/2"),
        ] {
            self.symlink(Path::new(target), &Path::new("/dev").join(name))?;
        }
        self.file_system(c"tmpfs", Path::new("/dev/shm"), PLAIN, "mode=1777")?;
        self.file_system(c"tmpfs", Path::new("/tmp"), PLAIN, "mode=1777")?;
        if job.interactive {
            let no_exec = libc::MS_NOSUID | libc::MS_NOEXEC;
            self.file_system(
                c"devpts",
                Path::new("/dev/pts"),
                no_exec,
                "newinstance,ptmxmode=0666,mode=620",
            )?;
            self.symlink(Path::new("pts/ptmx"), Path::new("/dev/ptmx"))?;
        }
        Ok(())
    }

    fn mount(&mut self, mount: &Mount) -> Result<(), ExecError> {
        match mount {
            Mount::Bind { from, at, writable, recursive } => {
                let attributes = NO_SUID | NO_DEV | if *writable { 0 } else { READ_ONLY };
                self.bind(from, at, *recursive, attributes)
            }
            Mount::Overlay { lower, upper, work, at } => {
                let data = overlay_data(lower, upper, work)?;
                let to = self.place(at)?;
                self.dir(at)?;
                self.push(at, Op::Mount { kind: c"overlay", to, flags: PLAIN, data });
                Ok(())
            }
            Mount::Tmpfs { at, size } => {
                self.file_system(c"tmpfs", at, PLAIN, &format!("mode=0755,size={size}"))
            }
            Mount::Symlink { target, at } => self.symlink(target, at),
            Mount::Dir { at } => self.dir(at),
            Mount::File { at, contents } => {
                let to = self.place(at)?;
                self.push(at, Op::File(contents.clone(), to));
                Ok(())
            }
        }
    }

    fn device(&mut self, path: &Path) -> Result<(), ExecError> {
        // Read-only is the node, not the device: a builder that is root owns the host's nodes, and a step, which has the
        // same user, must not change their modes.
        self.bind(path, path, false, NO_SUID | READ_ONLY)
    }

    fn bind(&mut self, from: &Path, at: &Path, recursive: bool, attributes: u64) -> Result<(), ExecError> {
        let from = c_string(from.as_os_str())?;
        let to = self.place(at)?;
        self.push(at, Op::Bind { from, to, recursive, attributes });
        Ok(())
    }

    fn file_system(
        &mut self,
        kind: &'static std::ffi::CStr,
        at: &Path,
        flags: u64,
        data: &str,
    ) -> Result<(), ExecError> {
        self.dir(at)?;
        let to = self.place(at)?;
        let data = c_string(OsStr::new(data))?;
        self.push(at, Op::Mount { kind, to, flags, data });
        Ok(())
    }

    fn symlink(&mut self, target: &Path, at: &Path) -> Result<(), ExecError> {
        let target = c_string(target.as_os_str())?;
        let to = self.place(at)?;
        self.push(at, Op::Symlink(target, to));
        Ok(())
    }

    fn dir(&mut self, at: &Path) -> Result<(), ExecError> {
        if at == Path::new("/") || self.made.contains(at) {
            return Ok(());
        }
        let to = self.place(at)?;
        self.made.insert(at.to_path_buf());
        self.push(at, Op::Dir(to));
        Ok(())
    }

    /// Split a path into directory and name, and see to it that the directory is there.
    fn place(&mut self, at: &Path) -> Result<Place, ExecError> {
        let plain = at.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        let (Some(parent), Some(name), true, true) = (at.parent(), at.file_name(), plain, at.is_absolute())
        else {
            return Err(ExecError::Invalid(format!("{} cannot be a place in a sandbox", at.display())));
        };
        self.dir(parent)?;
        let relative = parent.strip_prefix("/").unwrap_or(parent);
        let dir = if relative.as_os_str().is_empty() { OsStr::new(".") } else { relative.as_os_str() };
        let path = at.strip_prefix("/").unwrap_or(at);
        Ok(Place { path: c_string(path.as_os_str())?, dir: c_string(dir)?, name: c_string(name)? })
    }

    fn push(&mut self, at: &Path, op: Op) {
        if matches!(op, Op::Bind { .. } | Op::Mount { .. }) {
            // Directories made below are hidden now, so a later place there is made anew.
            self.made.retain(|made| made == at || !made.starts_with(at));
        }
        self.ops.push(op);
        self.paths.push(at.to_path_buf());
    }
}

/// The mount options of an overlay. `userxattr` is what an unprivileged mount may use for its own marks.
fn overlay_data(lower: &[PathBuf], upper: &Path, work: &Path) -> Result<CString, ExecError> {
    let mut data = b"userxattr,lowerdir=".to_vec();
    for (index, layer) in lower.iter().enumerate() {
        if index > 0 {
            data.push(b':');
        }
        escape(layer, &mut data);
    }
    data.extend_from_slice(b",upperdir=");
    escape(upper, &mut data);
    data.extend_from_slice(b",workdir=");
    escape(work, &mut data);
    c_string(OsStr::from_bytes(&data))
}

fn escape(path: &Path, into: &mut Vec<u8>) {
    for &byte in path.as_os_str().as_bytes() {
        if matches!(byte, b'\\' | b':' | b',') {
            into.push(b'\\');
        }
        into.push(byte);
    }
}
