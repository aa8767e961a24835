//! A process group: what a program starts, with all that it starts in turn.

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::Child;

/// The process group that a program leads. Dropping it kills all of its members.
#[derive(Debug)]
pub struct ProcessGroup {
    leader: Pid,
    killed: bool,
}

impl ProcessGroup {
    /// The group of a child that was started with `process_group(0)` and has not been reaped.
    pub fn of(child: &Child) -> Option<Self> {
        let leader = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw)?;
        Some(Self { leader, killed: false })
    }

    /// The id of the group, which is the process id of its leader.
    pub fn id(&self) -> i32 {
        self.leader.as_raw_nonzero().get()
    }

    /// Sends SIGKILL to every member, once. The number of a group is not given
    /// out again while it has members; it is not used a second time, so that it
    /// cannot hit a stranger later.
    pub fn kill(&mut self) {
        if !std::mem::replace(&mut self.killed, true) {
            // ESRCH: nobody is left.
            let _ = kill_process_group(self.leader, Signal::KILL);
        }
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        self.kill();
    }
}
