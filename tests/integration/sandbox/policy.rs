//! What the operator says of the sandbox, and what follows where the kernel cannot.

use std::sync::Arc;

use common::config::{Location, Sandbox as Rules, SandboxMode, SandboxPolicy, SandboxRules};
use sandbox::{Abilities, ProcessBound, Sandbox};
use serde_json::json;
use suite::binary;
use suite::fakes::mcp::{from_npm, options, program, servers};
use suite::fixtures::sandbox::{bash_with, can_confine};
use worker::process::{Ended, Program, environment, run_program};
use worker::tools::bash::Bash;
use worker::tools::mcp::McpServers;

use super::Place;

fn location(path: &std::path::Path) -> Location {
    path.to_str().unwrap().to_owned().try_into().unwrap()
}

#[test]
fn what_is_required_and_cannot_be_done_is_refused_by_name() {
    let none = Abilities { landlock: 0, seccomp: false, processes: ProcessBound::Watch };
    let required = SandboxPolicy { mode: SandboxMode::Require, ..Rules::default().bash() };
    let refused = Sandbox::new(required, Arc::new(none.clone())).unwrap_err().to_string();
    for subject in ["files:", "signals:", "network:", "processes:"] {
        assert!(refused.contains(subject), "{refused}");
    }
    for mode in [SandboxMode::Prefer, SandboxMode::Off] {
        let policy = SandboxPolicy { mode, ..Rules::default().bash() };
        assert!(Sandbox::new(policy, Arc::new(none.clone())).is_ok());
    }
}

#[tokio::test]
async fn what_the_kernel_can_is_done_where_it_cannot_do_all() {
    if !can_confine("network") {
        return;
    }
    let place = Place::new();
    let partly = Abilities { landlock: 0, ..(*Abilities::here()).clone() };
    let bash = Bash::new(Sandbox::new(Rules::default().bash(), Arc::new(partly)).unwrap());
    let secret = place.secret().display().to_string();
    assert_eq!(place.ok(&bash, &format!("cat {secret}")).await, "TOP SECRET", "without landlock");
    place.attempt(&bash, "import socket; socket.socket(); print('out')").await;
}

#[tokio::test]
async fn what_is_off_confines_nothing() {
    let place = Place::new();
    let bash = bash_with(|policy| policy.mode = SandboxMode::Off);
    let secret = place.secret().display().to_string();
    let said = place.ok(&bash, &format!("cat {secret}; grep NoNewPrivs /proc/self/status")).await;
    assert_eq!(said, "TOP SECRETNoNewPrivs:\t0\n");
}

#[tokio::test]
async fn places_that_are_named_can_be_read_or_written() {
    let place = Place::new();
    let (secret, open) = (place.secret(), place.outside().join("open"));
    std::fs::create_dir(&open).unwrap();
    let bash = bash_with(|policy| {
        policy.read = vec![location(&secret), location(&place.outside().join("not-there"))];
        policy.write = vec![location(&open)];
    });
    let (secret, open) = (secret.display(), open.display());
    assert_eq!(place.ok(&bash, &format!("cat {secret}; echo x > {open}/new; cat {open}/new")).await, "TOP SECRETx\n");
    if can_confine("files") {
        let said = place.output(&bash, &format!("echo x > {secret}")).await;
        assert!(said.contains("denied"), "{said}");
    }
}

/// Runs a shell script as a `run` step does.
async fn step(policy: SandboxPolicy, place: &Place, script: &str) -> (Ended, String) {
    let outcome = run_program(Program {
        argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
        cwd: place.workspace(),
        env: environment(&place.workspace(), []),
        sandbox: suite::fixtures::sandbox::of(policy),
        stdin: None,
        timeout: std::time::Duration::from_secs(20),
        output_limit: 10_000,
    })
    .await
    .unwrap();
    (outcome.ended, outcome.stdout.text() + &outcome.stderr.text())
}

#[tokio::test]
async fn a_program_that_a_person_chose_keeps_its_files_and_gets_no_hold_of_the_worker() {
    let place = Place::new();
    let secret = place.secret().display().to_string();
    let (ended, said) = step(Rules::default().run(), &place, &format!("echo new > {secret}; cat {secret}")).await;
    assert_eq!((ended, said.as_str()), (Ended::Exited(0), "new\n"));
    if can_confine("files") {
        let look = format!("cat /proc/{}/environ > /dev/null", std::process::id());
        assert_ne!(step(Rules::default().run(), &place, &look).await.0, Ended::Exited(0));
    }
    if can_confine("signals") {
        let signal = format!("kill -0 {}", std::process::id());
        assert_ne!(step(Rules::default().run(), &place, &signal).await.0, Ended::Exited(0));
    }
    let (_, said) = step(Rules::default().run(), &place, "grep NoNewPrivs /proc/self/status").await;
    assert_eq!(said, "NoNewPrivs:\t1\n");
    if can_confine("files") {
        let closed = SandboxRules { write: Some(Vec::new()), read: Some(Vec::new()), ..SandboxRules::default() };
        let policy = Rules { run: closed, ..Rules::default() }.run();
        let (_, said) = step(policy, &place, &format!("echo mine > mine; cat mine; cat {secret}")).await;
        assert!(said.starts_with("mine\n") && said.contains("denied"), "{said}");
    }
}

#[tokio::test]
async fn an_mcp_server_writes_only_where_its_own_sandbox_lets_it() {
    if !can_confine("files") {
        return;
    }
    for (open, works) in [(true, true), (false, false)] {
        let place = Place::new();
        let mut memory = from_npm("server-memory", &[]);
        let file = place.outside().join("memory.json");
        let text = common::config::SecretOrText::Text(file.display().to_string());
        let server = program(&mut memory);
        server.env = [("MEMORY_FILE_PATH".to_owned(), text)].into();
        // The program itself is somewhere else than the system's.
        let script = std::path::Path::new(&server.command[1]).canonicalize().unwrap();
        let modules = script.ancestors().find(|path| path.ends_with("node_modules")).unwrap();
        let above: Vec<Location> = [modules, script.ancestors().nth(5).unwrap()].map(location).to_vec();
        server.sandbox = SandboxRules {
            network: Some(false),
            read: Some(above),
            write: Some(if open { vec![location(place.outside())] } else { Vec::new() }),
            ..SandboxRules::default()
        };
        server.command[1] = script.display().to_string();
        let servers = McpServers::new(&servers([("memory", memory)]), &options(&place.workspace(), 1 << 20)).unwrap();
        let tools = servers.tools("memory").await.unwrap();
        let create = tools.iter().find(|tool| tool.spec().name.ends_with("create_entities")).unwrap();
        let entity = json!({"entities": [{"name": "Ada", "entityType": "person", "observations": []}]});
        let answer = create.call(suite::fakes::calls::call(&**create, entity, &place.workspace())).await.unwrap();
        assert_eq!((!answer.is_error, file.exists()), (works, works), "{answer:?}");
        servers.shutdown().await;
    }
}

#[test]
fn doctor_says_what_is_confined_and_check_refuses_what_cannot_be_meant() {
    let project = tempfile::tempdir().unwrap();
    let dir = project.path().to_str().unwrap();
    let teamster = |arguments: &[&str]| {
        let output = binary::run(&[arguments, &["--dir", dir]].concat()).unwrap();
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr),
        )
    };
    std::fs::write(project.path().join("teamster.yaml"), "store: sqlite:test.db\nsandbox: {bash: {read: [src]}}\n")
        .unwrap();
    let (well, said) = teamster(&["check"]);
    assert!(!well && said.contains("is no place") && said.contains("teamster.yaml:2"), "{said}");
    std::fs::write(project.path().join("teamster.yaml"), "store: sqlite:test.db\n").unwrap();
    std::fs::create_dir(project.path().join("pipelines")).unwrap();
    std::fs::write(project.path().join("pipelines/p.yaml"), "name: p\nsteps:\n  - { id: a, set: 1 }\n").unwrap();
    let (applied, said) = teamster(&["apply"]);
    assert!(applied, "{said}");
    let (_, said) = teamster(&["doctor"]);
    for finding in Abilities::here().findings() {
        assert!(said.contains(&format!("{}: {}", finding.subject, finding.said)), "{said}");
    }
    std::fs::write(project.path().join("teamster.yaml"), "store: sqlite:test.db\nsandbox: {mode: off}\n").unwrap();
    let (_, said) = teamster(&["doctor"]);
    assert!(said.contains("sandbox: off"), "{said}");
}
