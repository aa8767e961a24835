//! Ways to files and processes that are not a program's own.

use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::{Child, Command, Stdio};

use suite::fixtures::sandbox::{bash, can_confine};

use super::Place;

/// A process beside the worker, of the same user.
struct Neighbour(Child);

impl Neighbour {
    fn new() -> Self {
        Self(Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap())
    }

    fn lives(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn nothing_outside_of_the_workspace_is_written() {
    if !can_confine("files") {
        return;
    }
    let place = Place::new();
    symlink(place.outside(), place.workspace().join("way-out")).unwrap();
    symlink(place.secret(), place.workspace().join("link")).unwrap();
    let (outside, secret) = (place.outside().display(), place.secret().display().to_string());
    for command in [
        format!("echo x > {outside}/new"),
        format!("echo x > {secret}"),
        format!(": >> {secret} && echo x >> {secret}"),
        format!("truncate -s 0 {secret}"),
        format!("rm -f {secret}"),
        format!("mv {secret} mine"),
        format!("echo x > file && mv file {outside}/new"),
        format!("ln {secret} mine && echo x > mine"),
        format!("mkdir {outside}/new"),
        format!("mkfifo {outside}/new"),
        format!("ln -s /etc {outside}/new"),
        format!("echo x > /proc/self/root{secret}"),
        "echo x > ../new".to_owned(),
        "echo x > ../secret".to_owned(),
        "echo x > way-out/new".to_owned(),
        "echo x > link".to_owned(),
        "cd way-out && echo x > new".to_owned(),
        "mkdir -p a/b && cd a/b && echo x > ../../../new".to_owned(),
        "echo x > /proc/self/cwd/../new".to_owned(),
        "mount --bind .. /mnt && echo x > /mnt/new".to_owned(),
        "unshare -rm sh -c 'mount --bind .. . && echo x > new'".to_owned(),
        "echo x > /dev/shm/teamster-test-new".to_owned(),
        "echo 1 > /proc/sys/vm/overcommit_memory".to_owned(),
        "mknod disk b 8 0 && cat disk".to_owned(),
    ] {
        let said = place.output(&bash(), &command).await;
        assert!(said.starts_with("Exit code"), "{command} was not refused: {said}");
    }
    assert_eq!(std::fs::read_to_string(place.secret()).unwrap(), "TOP SECRET");
    let mut names: Vec<_> = std::fs::read_dir(place.outside()).unwrap().map(|it| it.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["secret", "workspace"]);
}

#[tokio::test]
async fn a_secret_outside_of_the_workspace_is_not_read() {
    if !can_confine("files") {
        return;
    }
    let place = Place::new();
    symlink(place.secret(), place.workspace().join("link")).unwrap();
    let secret = place.secret().display().to_string();
    for command in [
        format!("cat {secret}"),
        format!("cp {secret} mine && cat mine"),
        format!("ln {secret} mine && cat mine"),
        format!("exec 5<{secret} && cat <&5"),
        format!("cat /proc/self/root{secret}"),
        format!("python3 -c 'print(open(\"{secret}\").read())'"),
        format!("tar cf t.tar {secret} && tar xfO t.tar"),
        "cat ../secret".to_owned(),
        "cat link".to_owned(),
        "cat /proc/self/cwd/../secret".to_owned(),
        "ls ..".to_owned(),
        "cat /etc/shadow".to_owned(),
        format!("cat /proc/{}/cwd/Cargo.toml", std::process::id()),
    ] {
        let said = place.output(&bash(), &command).await;
        let refused = said.starts_with("Exit code") && !said.contains("TOP SECRET") && !said.contains("root:");
        assert!(refused, "{command} was not refused: {said}");
    }
}

#[tokio::test]
async fn the_environment_memory_and_descriptors_of_the_worker_are_not_seen() {
    if !can_confine("files") {
        return;
    }
    let place = Place::new();
    let worker = std::process::id();
    for command in [
        format!("cat /proc/{worker}/environ"),
        format!("cat /proc/$PPID/environ && [ $PPID = {worker} ]"),
        format!("cat /proc/{worker}/maps"),
        format!("head -c 1 /proc/{worker}/mem"),
        format!("readlink /proc/{worker}/fd/2"),
        format!("cat < /proc/{worker}/fd/2"),
        format!("readlink /proc/{worker}/exe"),
        format!("cat /proc/{worker}/task/{worker}/environ"),
    ] {
        let said = place.output(&bash(), &command).await;
        assert!(said.starts_with("Exit code") && !said.contains("CARGO"), "{command} was not refused: {said}");
    }
}

#[tokio::test]
async fn no_process_outside_is_traced() {
    if !can_confine("files") || !can_confine("network") {
        return;
    }
    let (place, neighbour) = (Place::new(), Neighbour::new());
    for (call, arguments) in [
        // PTRACE_ATTACH and PTRACE_SEIZE.
        ("ptrace", "16, pid, 0, 0"),
        ("ptrace", "0x4206, pid, 0, 0"),
        ("process_vm_readv", "pid, iov, 1, iov, 1, 0"),
    ] {
        let program = format!(
            "import ctypes, os\n\
             libc = ctypes.CDLL(None, use_errno=True)\n\
             pid, iov = {}, (ctypes.c_long * 2)(0, 1)\n\
             if libc.{call}({arguments}) >= 0: print('out')\n\
             else: raise OSError(ctypes.get_errno(), 'refused')\n",
            neighbour.0.id()
        );
        place.attempt(&bash(), &program).await;
    }
}

#[tokio::test]
async fn no_process_outside_gets_a_signal() {
    if !can_confine("signals") {
        return;
    }
    let (place, mut neighbour) = (Place::new(), Neighbour::new());
    let (worker, beside) = (std::process::id(), neighbour.0.id());
    for command in [
        format!("kill -0 {worker}"),
        "kill -0 $PPID".to_owned(),
        format!("kill -KILL {beside}"),
        format!("kill -STOP {beside}"),
        format!("setsid -w kill -KILL {beside}"),
        format!("python3 -c 'import os, signal; signal.pidfd_send_signal(os.pidfd_open({beside}), 9)'"),
    ] {
        let said = place.output(&bash(), &command).await;
        assert!(said.contains("not permitted"), "{command} was not refused: {said}");
    }
    assert!(neighbour.lives());
    // Its own it may end.
    place.ok(&bash(), "sleep 1000 & kill $! && ! wait $!").await;
}

#[tokio::test]
async fn a_setuid_program_gives_no_other_rights() {
    let place = Place::new();
    let status = place.ok(&bash(), "grep -E 'NoNewPrivs|CapEff|CapPrm' /proc/self/status").await;
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    assert_eq!(status.matches("0000000000000000").count(), 2, "{status}");
    if !rustix::process::getuid().is_root() {
        return; // Only root can make the program for the rest.
    }
    let program = place.workspace().join("other");
    // By another process: while this one has it open for writing, nobody can run it.
    assert!(Command::new("cp").arg("/usr/bin/id").arg(&program).status().unwrap().success());
    std::os::unix::fs::chown(&program, Some(65534), Some(65534)).unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o4755)).unwrap();
    let usually = Command::new(&program).arg("-u").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&usually.stdout), "65534\n", "without a sandbox it becomes another");
    assert_eq!(place.ok(&bash(), "./other -u").await, "0\n");
}

#[tokio::test]
async fn descriptors_of_the_worker_are_not_inherited() {
    let place = Place::new();
    let secret = std::fs::File::open(place.secret()).unwrap();
    // As a library would leave it that forgets the flag.
    rustix::io::fcntl_setfd(&secret, rustix::io::FdFlags::empty()).unwrap();
    let number = secret.as_raw_fd();
    let said = place.output(&bash(), &format!("cat <&{number}; cat /proc/self/fd/{number}; ls /proc/self/fd")).await;
    assert!(!said.contains("TOP SECRET"), "{said}");
    // The last is what `ls` itself has open.
    assert!(said.ends_with("0\n1\n2\n3\n") || said.contains("0\n1\n2\n3\n"), "{said}");
}
