//! The filter of system calls: no sockets for who may not use the network, and
//! nothing that no confined program needs. Made before the fork.

use std::collections::BTreeMap;
use std::env::consts::ARCH;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, sock_filter,
};

/// Calls that look into other processes, change the machine, or keep secrets of the user: for nobody.
const NEVER: &[libc::c_long] = &[
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_delete_module,
    libc::SYS_finit_module,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_init_module,
    libc::SYS_kcmp,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_process_madvise,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setns,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_umount2,
    libc::SYS_userfaultfd,
];

/// Ways to a socket. `io_uring` makes them without the calls that a filter sees.
const SOCKETS: &[libc::c_long] =
    &[libc::SYS_socket, libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];

/// The bits of a socket's type that are not flags, as `SOCK_TYPE_MASK` in `linux/net.h`.
const SOCKET_TYPE: u64 = 0xf;

/// Calls of the ABI x32 have this bit in their number; they would pass a filter that knows only the usual numbers.
const X32: u32 = 0x4000_0000;

/// Whether filters can be used here.
pub(crate) fn is_available() -> bool {
    let actions = std::fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
    actions.split_whitespace().any(|action| action == "errno") && TargetArch::try_from(ARCH).is_ok()
}

/// The filter for programs that may or may not use the network.
pub(crate) fn build(network: bool) -> io::Result<BpfProgram> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = NEVER.iter().map(|call| (*call, Vec::new())).collect();
    if !network {
        rules.extend(SOCKETS.iter().map(|call| (*call, Vec::new())));
        // A pair of connected sockets is a pipe, which many programs use. A pair of
        // datagram sockets is none: each can be connected anew, to anybody's.
        let datagram = SeccompCondition::new(
            1,
            SeccompCmpArgLen::Dword,
            SeccompCmpOp::MaskedEq(SOCKET_TYPE),
            u64::from(libc::SOCK_DGRAM.cast_unsigned()),
        );
        let rule = datagram.and_then(|datagram| SeccompRule::new(vec![datagram])).map_err(io::Error::other)?;
        rules.insert(libc::SYS_socketpair, vec![rule]);
    }
    let refused = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    let architecture = TargetArch::try_from(ARCH).map_err(io::Error::other)?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refused, architecture).map_err(io::Error::other)?;
    let program: BpfProgram = filter.try_into().map_err(io::Error::other)?;
    Ok(if cfg!(target_arch = "x86_64") { without_x32(program) } else { program })
}

/// The program with an answer in front of it to every call of the ABI x32: there is none.
fn without_x32(program: BpfProgram) -> BpfProgram {
    let instruction = |code: u32, jt, jf, k| sock_filter { code: u16::try_from(code).unwrap_or(u16::MAX), jt, jf, k };
    let mut guarded = vec![
        // The number is the first word of `seccomp_data`.
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        instruction(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 0, 1, X32),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned()),
    ];
    guarded.extend(program);
    guarded
}
