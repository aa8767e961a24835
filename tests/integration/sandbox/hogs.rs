//! Programs that take more than they may.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::config::Sandbox as Rules;
use sandbox::{Abilities, ProcessBound, Sandbox};
use serde_json::json;
use suite::fakes::calls::{call, process_is_gone};
use suite::fixtures::process::WorkerProcess;
use suite::fixtures::sandbox::{bash_with, can_confine};
use suite::fixtures::scheduler::RunningScheduler;
use worker::tools::Tool;
use worker::tools::bash::Bash;

use super::Place;

/// What a bomb may have in these tests.
const PROCESSES: u32 = 40;

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_bomb_stays_within_its_bound_and_is_gone_in_the_end() {
    if !can_confine("processes") {
        return;
    }
    for bomb in [
        "bomb() { bomb | bomb & }; bomb; sleep 1000",
        // Each leaves the group and loses its parent.
        "echo 'setsid sh ./bomb & setsid sh ./bomb & sleep 1' > bomb; sh ./bomb; sleep 1000",
    ] {
        let place = Place::new();
        let bash = bash_with(|policy| policy.processes = Some(PROCESSES));
        let running = bash.call(call(&bash, json!({"command": bomb, "timeout": 1500}), &place.workspace()));
        let watching = async {
            let mut most = 0;
            for _ in 0..50 {
                tokio::time::sleep(Duration::from_millis(20)).await;
                most = most.max(place.processes().len());
            }
            most
        };
        let (answer, most) = tokio::join!(running, watching);
        println!("at most {most} processes");
        assert!(answer.unwrap().content.as_str().unwrap().contains("Killed after"), "it was stopped");
        // In `User` the bound is what the user had before, which others use too.
        assert!(most <= PROCESSES as usize, "{most} processes");
        assert!(most > 5, "it is no bomb: {most}");
        place.is_deserted().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_detaches_itself_does_not_outlive_its_call() {
    if Abilities::here().processes == ProcessBound::User {
        println!("NOT SHOWN ON THIS MACHINE: without a cgroup, a process that leaves its group is not found");
        return;
    }
    let place = Place::new();
    let detach = "setsid sh -c 'echo $$ > detached; exec sleep 1000' < /dev/null > /dev/null 2>&1 & \
                  until [ -s detached ]; do sleep 0.05; done";
    place.ok(&bash_with(|_| {}), detach).await;
    place.is_deserted().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_else_bounds_processes_they_are_counted_and_killed() {
    let place = Place::new();
    let abilities = Abilities { processes: ProcessBound::Watch, ..(*Abilities::here()).clone() };
    let policy = common::config::SandboxPolicy { processes: Some(PROCESSES), ..Rules::default().bash() };
    let bash = Bash::new(Sandbox::new(policy, Arc::new(abilities)).unwrap());
    // Some stay in the group, some leave it. Not without end: nothing but the count would stop it.
    let many = "for i in $(seq 60); do sleep 1000 & setsid sleep 1000 & done; wait";
    let said = place.output(&bash, many).await;
    assert!(said.starts_with("Killed by signal 9"), "{said}");
    place.is_deserted().await;
    // Few are left alone.
    assert_eq!(place.ok(&bash, "for i in 1 2 3; do sleep 0.2 & done; wait; echo well").await, "well\n");
}

#[tokio::test]
async fn a_program_that_eats_memory_gets_no_more_than_it_may() {
    let place = Place::new();
    let bash = bash_with(|policy| policy.memory = Some(256 << 20));
    let said = place.output(&bash, "python3 -c 'b = bytearray(200 << 20); print(len(b))'").await;
    assert_eq!(said, "209715200\n");
    let said = place.output(&bash, "python3 -c 'b = bytearray(300 << 20); print(len(b))'").await;
    assert!(said.contains("MemoryError") || said.contains("Killed"), "{said}");
    // In many small parts, too.
    let said = place.output(&bash, "python3 -c 'a = [bytes(4096) for _ in range(1000000)]; print(len(a))'").await;
    assert!(said.starts_with("Exit code") && !said.contains("1000000\n"), "{said}");
}

#[tokio::test]
async fn a_program_is_ended_before_the_worker_when_memory_runs_out() {
    let place = Place::new();
    let own: i32 = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap().trim().parse().unwrap();
    let said =
        place.output(&bash_with(|_| {}), "echo 0 > /proc/self/oom_score_adj; cat /proc/self/oom_score_adj").await;
    assert!(said.contains("1000\n") && own < 1000, "{said}");
}

#[tokio::test]
async fn no_file_becomes_larger_than_it_may() {
    let place = Place::new();
    let bash = bash_with(|policy| policy.file_size = Some(1 << 20));
    let said = place.output(&bash, "head -c 5000000 /dev/zero > big").await;
    assert!(said.starts_with("Exit code"), "{said}");
    assert_eq!(std::fs::metadata(place.workspace().join("big")).unwrap().len(), 1 << 20);
    let said = place.output(&bash, "truncate -s 2M sparse").await;
    assert!(said.starts_with("Exit code") || said.starts_with("Killed"), "{said}");
}

#[tokio::test]
async fn a_program_that_only_computes_is_ended() {
    let place = Place::new();
    let bash = bash_with(|policy| policy.cpu = Some(Duration::from_secs(1)));
    let said = place.output(&bash, "while :; do :; done").await;
    assert!(said.starts_with("Killed by signal"), "{said}");
}

#[tokio::test]
async fn there_are_no_core_dumps_and_few_open_files() {
    let place = Place::new();
    let said = place.ok(&bash_with(|policy| policy.open_files = Some(32)), "ulimit -Hc; ulimit -Hn").await;
    assert_eq!(said, "0\n32\n");
    let said =
        place.output(&bash_with(|_| {}), "ulimit -c unlimited 2>&-; ulimit -n 100000 2>&-; ulimit -c; ulimit -n").await;
    assert!(said.ends_with("0\n1024\n"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_worker_left_running_is_ended_by_the_next() {
    if !matches!(Abilities::here().processes, ProcessBound::Cgroup(_)) {
        println!("NOT SHOWN ON THIS MACHINE: without a cgroup, programs of a killed worker are not found");
        return;
    }
    let long = "name: long\nsteps:\n  \
                - { id: a, run: { command: [sh, -c, 'echo $$ > \"$1\"; exec sleep 1000', sh, '{{ input.log }}'], effect: once } }\n";
    let scheduler = RunningScheduler::start(&[("pipelines/long.yaml", long)]).await;
    let log = scheduler.project.path().join("id");
    scheduler.submit(&json!({"pipeline": "long", "input": {"log": log}})).await;
    let mut first = WorkerProcess::start(&scheduler, None);
    suite::fakes::calls::file_appears(&log).await;
    let program: i32 = std::fs::read_to_string(&log).unwrap().trim().parse().unwrap();
    first.signal(rustix::process::Signal::KILL);
    first.until_ended().await;
    assert!(Path::new(&format!("/proc/{program}")).exists(), "nobody has ended it so far");
    let _second = WorkerProcess::start(&scheduler, None);
    process_is_gone(program).await;
}
