//! The seccomp filter of a job with a root of its own: it hands changes of owner to the builder, and the questions for
//! the owner of an open file, with which programs carry owners over to a new version of a file. Nothing else.
//!
//! Knows system call numbers. All is constant or on the stack, since it is used between clone and exec.

use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter};

/// What a system call does to which file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    /// `(path, uid, gid)`, symbolic links followed.
    Chown,
    /// `(path, uid, gid)`, of the link itself.
    Lchown,
    /// `(fd, uid, gid)`.
    Fchown,
    /// `(dirfd, path, uid, gid, flags)`.
    Fchownat,
    /// `(fd, struct stat)`.
    Fstat,
    /// `(dirfd, path, struct stat, flags)`; handed over only with `AT_EMPTY_PATH`, where it may be an fstat.
    Newfstatat,
}

use Call::{Chown, Fchown, Fchownat, Fstat, Lchown, Newfstatat};

/// AUDIT_ARCH of linux/audit.h, each with the calls of that architecture. The second is what 32-bit programs of the
/// same processor use (with 32-bit ids; the calls with 16-bit ids of the last century stay with the kernel, which
/// refuses them; and without fstat, whose layout is another). Programs of any other architecture (x32) stay with the kernel too.
#[cfg(target_arch = "x86_64")]
const CALLS: [(u32, &[(u32, Call)]); 2] = [
    (0xc000_003e, &[(92, Chown), (93, Fchown), (94, Lchown), (260, Fchownat), (5, Fstat), (262, Newfstatat)]),
    (0x4000_0003, &[(212, Chown), (207, Fchown), (198, Lchown), (298, Fchownat)]),
];
#[cfg(target_arch = "aarch64")]
const CALLS: [(u32, &[(u32, Call)]); 2] = [
    (0xc000_00b7, &[(55, Fchown), (54, Fchownat), (80, Fstat), (79, Newfstatat)]),
    (0x4000_0028, &[(212, Chown), (207, Fchown), (198, Lchown), (325, Fchownat)]),
];

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("the system calls of this processor are to be added to exec/filter.rs");

/// The call of this number on this architecture.
pub(super) fn call(arch: u32, number: i32) -> Option<Call> {
    let (_, calls) = CALLS.iter().find(|(of, _)| *of == arch)?;
    calls.iter().find(|(of, _)| *of == number as u32).map(|(_, call)| *call)
}

const LEN: usize = (3 + CALLS[0].1.len()) + (3 + CALLS[1].1.len()) + 5;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
/// The lower half of the fourth argument, on the little-endian processors above.
const FLAGS: u32 = 16 + 3 * 8;

const fn op(code: u32, yes: usize, no: usize, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: yes as u8, jf: no as u8, k }
}

/// The program: load the architecture, then for each of ours the number, then compare.
pub(super) static FILTER: [sock_filter; LEN] = build();

const fn build() -> [sock_filter; LEN] {
    let load = BPF_LD | BPF_W | BPF_ABS;
    let equal = BPF_JMP | BPF_JEQ | BPF_K;
    let mut program = [op(BPF_RET | BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW); LEN];
    let notify = LEN - 1;
    program[notify] = op(BPF_RET | BPF_K, 0, 0, libc::SECCOMP_RET_USER_NOTIF);
    let flags = LEN - 4;
    program[flags] = op(load, 0, 0, FLAGS);
    program[flags + 1] = op(BPF_JMP | BPF_JSET | BPF_K, 1, 0, libc::AT_EMPTY_PATH as u32);
    let allow = LEN - 5;
    let mut at = 0;
    let mut index = 0;
    while index < CALLS.len() {
        let (arch, calls) = CALLS[index];
        // Another architecture jumps over this block of 1 + n tests, to the next block's load or the last ALLOW.
        program[at] = op(load, 0, 0, ARCH);
        at += 1;
        program[at] = op(equal, 0, calls.len() + 1, arch);
        at += 1;
        program[at] = op(load, 0, 0, NUMBER);
        at += 1;
        let mut number = 0;
        while number < calls.len() {
            let (nr, call) = calls[number];
            let yes = if matches!(call, Newfstatat) { flags } else { notify };
            let no = if number + 1 == calls.len() { allow } else { at + 1 };
            program[at] = op(equal, yes - (at + 1), no - (at + 1), nr);
            at += 1;
            number += 1;
        }
        index += 1;
    }
    program
}
