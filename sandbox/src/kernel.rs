//! System calls that no crate wraps in a way that is safe between fork and exec.
#![expect(unsafe_code, reason = "raw system calls, and `pre_exec`, have no safe form")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// `LANDLOCK_CREATE_RULESET_VERSION`, `linux/landlock.h`.
const VERSION: libc::c_int = 1;
/// `CLOSE_RANGE_CLOEXEC`, `linux/close_range.h`: close at exec.
const AT_EXEC: libc::c_int = 1 << 2;

/// The version of landlock's interface, 0 if there is none.
pub(crate) fn landlock_version() -> u32 {
    // SAFETY: asks for the version, with no memory involved.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0_usize, VERSION) };
    u32::try_from(version).unwrap_or(0)
}

/// Puts the calling thread, and what it executes, under a set of rules.
pub(crate) fn landlock_restrict_self(ruleset: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the descriptor is open as long as it is borrowed; no memory is involved.
    match unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0_u32) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Has every descriptor but the first three closed at exec.
pub(crate) fn close_others_at_exec() -> io::Result<()> {
    // SAFETY: sets flags of descriptors; none is closed before exec, when nobody holds one any more.
    match unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, AT_EXEC) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Has the child of a command run `setup` between fork and exec. It must only
/// make system calls: no allocation, no lock, no panic.
pub(crate) fn before_exec(command: &mut Command, setup: impl FnMut() -> io::Result<()> + Send + Sync + 'static) {
    // SAFETY: the only caller is `Entry::install`, whose closure keeps to system calls on what was made before the fork.
    unsafe {
        command.pre_exec(setup);
    }
}
