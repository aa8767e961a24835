//! What programs do all day has to work in the sandbox.

use suite::fixtures::sandbox::bash;

use super::Place;

#[tokio::test]
async fn shells_have_pipes_temporary_files_and_the_usual_devices() {
    let place = Place::new();
    for (command, expected) in [
        ("printf 'b\\na\\n' | sort | tee sorted | head -n 1", "a\n"),
        ("cat sorted", "a\nb\n"),
        ("cat <<END\nhere\nEND", "here\n"),
        ("cat <(echo one) <(echo two)", "one\ntwo\n"),
        ("echo x > /dev/null; head -c 4 /dev/urandom | wc -c; head -c 4 /dev/zero | wc -c", "4\n4\n"),
        ("f=$(mktemp) && echo kept > $f && cat $f", "kept\n"),
        ("echo err > /dev/stderr; echo out > /dev/stdout", "out\nerr\n"),
        ("mkdir -p a/b && mv sorted a/b/ && mv a/b c && ls c", "sorted\n"),
        ("printf '#!/bin/sh\\necho ran' > script && chmod +x script && ./script", "ran\n"),
        ("ln -s c d && cat d/sorted && rm -r c d a", "a\nb\n"),
        ("seq 100000 | sort -rn | sed -n 1p", "100000\n"),
        (
            "timeout 5 echo in time; nice true; nproc > /dev/null; date > /dev/null; ps > /dev/null; echo well",
            "in time\nwell\n",
        ),
        ("tar cf t.tar script && rm script && tar xf t.tar && ls script", "script\n"),
        ("(echo background > file) & wait; cat file", "background\n"),
    ] {
        assert_eq!(place.ok(&bash(), command).await, expected, "{command}");
    }
}

#[tokio::test]
async fn git_makes_commits_and_branches() {
    let place = Place::new();
    let script = "git init -q -b main repo && cd repo && git config user.name n && git config user.email e@x \
                  && echo 1 > a && git add a && git commit -qm one && git checkout -qb other && echo 2 > a \
                  && git commit -qam two && git diff --stat main other && git worktree add -q ../tree main \
                  && git clone -q . ../copy && git -C ../copy log --format=%s && git gc -q";
    let said = place.ok(&bash(), script).await;
    assert!(said.contains("1 file changed") && said.ends_with("two\none\n"), "{said}");
}

#[tokio::test]
async fn python_and_node_run_with_children_threads_and_files() {
    let place = Place::new();
    let python = "import json, os, random, ssl, subprocess, tempfile, threading, hashlib, sqlite3\n\
                  t = threading.Thread(target=lambda: open('t', 'w').write('t')); t.start(); t.join()\n\
                  tempfile.NamedTemporaryFile().write(b'x')\n\
                  sqlite3.connect('db').execute('create table t (a)')\n\
                  assert os.getcwd() and os.cpu_count() and random.SystemRandom().random() < 1\n\
                  print(subprocess.check_output(['echo', 'child'], text=True), open('t').read())\n";
    std::fs::write(place.workspace().join("work.py"), python).unwrap();
    assert_eq!(place.ok(&bash(), "python3 work.py").await, "child\n t\n");
    let node = "const fs = require('fs'), os = require('os'), cp = require('child_process');\n\
                const { Worker } = require('worker_threads');\n\
                fs.writeFileSync('n', 'written'); fs.mkdtempSync(os.tmpdir() + '/x');\n\
                const child = cp.spawn('sh', ['-c', 'echo child'], { stdio: ['ignore', 'pipe', 'inherit'] });\n\
                child.stdout.on('data', data => process.stdout.write(data));\n\
                child.on('close', () => new Worker('console.log(\"thread\")', { eval: true }));\n";
    std::fs::write(place.workspace().join("work.js"), node).unwrap();
    assert_eq!(place.ok(&bash(), "node work.js; cat n").await, "child\nthread\nwritten");
}
