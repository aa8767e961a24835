#![allow(clippy::unwrap_used, clippy::panic)]

use proptest::prelude::*;

use super::*;
use crate::diagnostic::Severity;
use crate::pipeline::bundle::{Bundle, compile};

fn files() -> Files {
    let file = |name: &str, text: &str| SourceFile::new(name, text);
    Files {
        agents: BTreeMap::from([
            ("writer".to_owned(), file("agents/writer.md", "---\nname: writer\nmodel: sonnet\n---\nWrite.\n")),
            ("broken".to_owned(), file("agents/broken.md", "no front matter")),
        ]),
        schemas: BTreeMap::from([
            ("schemas/a.json".to_owned(), file("schemas/a.json", "{\"type\": \"object\"}")),
            ("schemas/wrong.json".to_owned(), file("schemas/wrong.json", "{\n  \"type\": \"objekt\"\n}")),
            ("schemas/text.json".to_owned(), file("schemas/text.json", "{\n  \"type\": \n}")),
        ]),
        teams: BTreeMap::from([(
            "sales".to_owned(),
            file("teams/sales.yaml", "permissions: { deny: [Bash], votes: 2 }\nbudget: { usd: 0.5 }\n"),
        )]),
    }
}

fn read_text(text: &str) -> (Option<Reading>, Diagnostics) {
    let mut out = Diagnostics::new();
    let reading = read(&SourceFile::new("pipelines/p.yaml", text), &files(), &Digest::of(b""), &mut out);
    (reading, out)
}

/// A pipeline of these steps; the first step's line is 3.
fn with_steps(steps: &str) -> String {
    format!("name: p\nsteps:\n{steps}\n")
}

#[track_caller]
fn reports(text: &str, place: (u32, u32), message: &str) {
    let (reading, out) = read_text(text);
    let found = out.iter().find(|problem| problem.message.contains(message));
    let Some(found) = found else { panic!("{text}\n{out}\nno {message:?} among these; {reading:?}") };
    assert_eq!((found.line, found.column), (Some(place.0), Some(place.1)), "{text}\n{found}");
    assert!(found.severity == Severity::Warning || reading.is_none());
}

#[test]
fn problems_of_a_pipeline_are_reported_in_their_place() {
    for (text, place, message) in [
        ("name: p\nstep: []", (2, 1), "unknown key `step`"),
        ("name: p\nsteps: []", (2, 8), "a pipeline has 1 to 1000 steps"),
        ("name: P\nsteps: [{id: a, set: 1}]", (1, 7), "pipeline name \"P\" is not valid"),
        ("steps: [{id: a, set: 1}]", (1, 1), "needs the key `name`"),
        ("name: p\npriority: 11\nsteps: [{id: a, set: 1}]", (2, 11), "11 is not from 0 to 9"),
        ("name: p\nqueue: A B\nsteps: [{id: a, set: 1}]", (2, 8), "queue name"),
        ("name: p\nretry: {attempts: 0}\nsteps: [{id: a, set: 1}]", (2, 8), "retry.attempts is 0"),
        ("name: p\nretry: {on: [sometimes]}\nsteps: [{id: a, set: 1}]", (2, 14), "is not a failure class"),
        ("name: p\nretry: {tries: 1}\nsteps: [{id: a, set: 1}]", (2, 9), "unknown field `tries`"),
        ("name: p\nbudget: {usd: -1}\nsteps: [{id: a, set: 1}]", (2, 9), "more than nothing"),
        ("name: p\ntimeout: 5 minutes\nsteps: [{id: a, set: 1}]", (2, 10), "is not a duration"),
        ("name: p\ninput: {type: objekt}\nsteps: [{id: a, set: 1}]", (2, 8), "JSON Schema is not valid"),
        ("name: p\ninput: {$ref: \"https://example.com/a\"}\nsteps: [{id: a, set: 1}]", (2, 8), "JSON Schema"),
        ("name: p\ninput: schemas/b.json\nsteps: [{id: a, set: 1}]", (2, 8), "no schema file schemas/b.json"),
        ("name: p\ninput: ../a.json\nsteps: [{id: a, set: 1}]", (2, 8), "must be below"),
        ("name: p\ninput: schemas/wrong.json\nsteps: [{id: a, set: 1}]", (2, 3), "JSON Schema is not valid"),
        ("name: p\ninput: schemas/text.json\nsteps: [{id: a, set: 1}]", (3, 1), "the file is not JSON"),
        ("name: p\nlabels: {a: \"{{ env.X }}\"}\nsteps: [{id: a, set: 1}]", (2, 17), "no name `env` here"),
        ("name: p\non: {webhook: a}\nsteps: [{id: a, set: 1}]", (2, 5), "`on` must be a list"),
        ("name: p\non: [{hook: a}]\nsteps: [{id: a, set: 1}]", (2, 6), "one of the keys `webhook` and `schedule`"),
        ("name: p\non: [{webhook: a, iff: x}]\nsteps: [{id: a, set: 1}]", (2, 19), "unknown key `iff`"),
        ("name: p\non: [{webhook: a, if: input.x}]\nsteps: [{id: a, set: 1}]", (2, 23), "no name `input` here"),
        ("name: p\non: [{schedule: {cron: \"* * *\"}}]\nsteps: [{id: a, set: 1}]", (2, 24), "is no cron expression"),
        (
            "name: p\non: [{schedule: {cron: \"* * * * *\", timezone: Mars}}]\nsteps: [{id: a, set: 1}]",
            (2, 47),
            "is no time zone",
        ),
        ("name: p\noutput: \"{{ steps.b.output }}\"\nsteps: [{id: a, set: 1}]", (2, 13), "no step `b`"),
        ("name: p\nname: q\nsteps: [{id: a, set: 1}]", (2, 1), "duplicate"),
        ("name: [", (1, 7), ""),
        ("name: p\n\tsteps: []", (1, 7), ""),
        ("- a", (1, 1), "a pipeline must be a mapping"),
        ("", (1, 1), "a pipeline must be a mapping"),
    ] {
        reports(text, place, message);
    }
}

#[test]
fn problems_of_steps_are_reported_in_their_place() {
    for (steps, place, message) in [
        ("  - {set: 1}", (3, 5), "a step needs the key `id`"),
        ("  - {id: a-b, set: 1}", (3, 10), "step id \"a-b\""),
        ("  - {id: a}", (3, 5), "needs one of the keys agent, tool"),
        ("  - {id: a, set: 1, sleep: 1s}", (3, 21), "exactly one kind"),
        ("  - {id: a, set: 1, prompt: x}", (3, 21), "unknown key `prompt`"),
        ("  - {id: a, set: 1}\n  - {id: a, set: 1}", (4, 10), "several steps `a`"),
        ("  - {id: a, needs: [b], set: 1}", (3, 21), "needs the step `b`"),
        ("  - {id: a, needs: [b], set: 1}\n  - {id: b, needs: a, set: 1}", (3, 21), "a → b → a"),
        ("  - {id: a, needs: a, set: 1}", (3, 20), "a → a"),
        ("  - {id: a, on_error: ignore, set: 1}", (3, 23), "use fail, continue"),
        ("  - {id: a, max_parallel: 2, set: 1}", (3, 27), "`max_parallel` is for"),
        ("  - {id: a, foreach: input.x, max_parallel: 0, set: 1}", (3, 45), "0 is not from 1 to 100"),
        ("  - {id: a, if: \"{{ input.x }}\", set: 1}", (3, 17), "without `{{`"),
        ("  - {id: a, if: input. , set: 1}", (3, 22), "cannot be read"),
        ("  - {id: a, agent: writr, prompt: x}", (3, 20), "there is no agent writr"),
        ("  - {id: a, agent: writer}", (3, 5), "needs the key `prompt`"),
        ("  - {id: a, agent: broken, prompt: x}", (1, 1), "has no front matter"),
        ("  - {id: a, agent: writer, prompt: x, limits: {turns: 0}}", (3, 47), "a limit of nothing"),
        ("  - {id: a, agent: writer, prompt: [x]}", (3, 36), "`prompt` must be a text"),
        ("  - {id: a, http: {url: x, method: get}}", (3, 36), "is no method"),
        ("  - {id: a, http: {method: GET}}", (3, 19), "`http` needs the key `url`"),
        ("  - {id: a, http: {url: x, effect: never}}", (3, 36), "use read, keyed, once"),
        ("  - {id: a, run: {command: ls}}", (3, 28), "`command` must be a list"),
        ("  - {id: a, sleep: soon}", (3, 20), "is not a duration"),
        ("  - {id: a, approval: {show: input}}", (3, 23), "needs the key `title`"),
        ("  - {id: a, approval: {title: x, on_expiry: reject}}", (3, 45), "means nothing without `expires`"),
        ("  - {id: a, pipeline: p}", (3, 23), "the pipeline p runs itself"),
        ("  - {id: a, set: \"{{ a b }}\"}", (3, 24), "cannot be read"),
    ] {
        reports(&with_steps(steps), place, message);
    }
}

#[test]
fn names_that_cannot_be_there_are_reported_in_their_place() {
    let two = "  - {id: first, set: 1}\n";
    for (step, place, message, help) in [
        ("set: \"{{ inptu.x }}\"", (4, 22), "no name `inptu`", "did you mean `input`"),
        ("set: \"x {{ steps.frist.output }}\"", (4, 24), "no step `frist`", "did you mean `steps.first`"),
        ("set: \"{{ steps.first.score }}\"", (4, 22), "has no `score`", "steps.first.output.score"),
        ("set: \"{{ steps.a.output }}\"", (4, 22), "looks at itself", ""),
        ("set: \"{{ steps.last.output }}\"", (4, 22), "which runs after it", "needs"),
        ("needs: [], set: \"{{ steps.first.output }}\"", (4, 33), "may not be done by then", "add `first`"),
        ("set: \"{{ item }}\"", (4, 22), "no name `item`", "`foreach`"),
        ("set: \"{{ event.x }}\"", (4, 22), "no name `event`", "triggers"),
        ("foreach: item.x, set: 1", (4, 22), "no name `item`", ""),
        ("set: \"{{ task.name }}\"", (4, 22), "no `name`", "`pipeline`"),
        ("if: steps.frist.error or steps.first.error, set: 1", (4, 17), "no step `frist`", ""),
        ("set: {deep: [1, {er: \"{{ input.x }} {{ nope }}\"}]}", (4, 52), "no name `nope`", ""),
        ("http: {url: x, json: \"{{ steps.nope.output | default(1) }}\"}", (4, 38), "no step `nope`", ""),
    ] {
        let text = with_steps(&format!("{two}  - {{id: a, {step}}}\n  - {{id: last, set: 1}}"));
        reports(&text, place, message);
        let found = read_text(&text).1;
        let found = found.iter().find(|problem| problem.message.contains(message)).unwrap();
        assert!(found.help.as_deref().unwrap_or_default().contains(help), "{found}");
    }
}

#[test]
fn the_place_is_found_in_every_way_of_writing_a_text() {
    for (step, place) in [
        ("    set: |\n      one\n      two {{ steps.no.x }}", (6, 14)),
        ("    set: >-\n      one\n\n      two {{ steps.no.x }}", (7, 14)),
        ("    set: \"one\n      two {{ steps.no.x }}\"", (5, 14)),
        ("    set: one two {{ steps.no.x }}", (4, 21)),
        ("    set: '{{ input.no }} {{ steps.no.x }}'", (4, 29)),
        ("    set: {steps.no.x: \"{{ steps.no.x }}\"}", (4, 27)),
    ] {
        reports(&with_steps(&format!("  - id: a\n{step}")), place, "no step `no`");
    }
}

#[test]
fn an_input_that_its_schema_does_not_mention_is_a_warning() {
    let text = "name: p\ninput: {type: object, properties: {company: {type: string}}}\nsteps:\n  - {id: a, set: \"{{ input.compny }}\"}\n";
    let (reading, out) = read_text(text);
    assert!(reading.is_some() && out.warnings() == 1, "{out}");
    reports(text, (4, 22), "does not mention `compny`");
    let lenient = text.replace("input.compny", "input.compny | default(1)");
    assert!(read_text(&lenient).1.is_empty());
}

#[test]
fn all_problems_are_reported_at_once() {
    let text = "name: p\nqeue: x\ntimeout: never\nsteps:\n  - {id: a, sett: 1}\n  - {id: b, set: \"{{ steps.c.output }}\"}\n  - {id: d, http: {metod: GET}}\n";
    let (_, out) = read_text(text);
    assert!(out.errors() >= 6, "{out}");
    let shown = out.to_string();
    for line in ["pipelines/p.yaml:2:1", "pipelines/p.yaml:3:10", "pipelines/p.yaml:6:22", "2 | qeue: x"] {
        assert!(shown.contains(line), "{line}\n{shown}");
    }
}

#[test]
fn every_kind_of_step_is_read() {
    let text = r#"
name: all
description: everything
queue: q
priority: 9
labels: { company: "{{ input.company }}" }
steps:
  - { id: agent, agent: writer, prompt: "Hi {{ input.x }}", model: fast, limits: { turns: 3 }, output: schemas/a.json }
  - { id: tool, needs: [], tool: mcp__memory__read_graph, with: { q: "{{ input.x }}" }, effect: read }
  - { id: http, http: { url: "https://x", headers: { a: "{{ env.TOKEN }}" } } }
  - { id: run, run: { command: [sh, -c, "echo {{ input.n }}", 5], stdin: { a: 1 }, env: { X: "1" }, effect: keyed } }
  - { id: set, foreach: input.list, max_parallel: 7, set: { item: "{{ item.x }}", n: "{{ index }}" } }
  - { id: approval, approval: { title: ok? }, timeout: 3m, retry: { attempts: 1 } }
  - { id: sleep, sleep: 10m }
  - { id: until, sleep: { until: "{{ input.at }}" } }
  - { id: child, foreach: [1, 2], pipeline: other, input: { n: "{{ item }}" }, on_error: continue }
output: null
"#;
    let (reading, out) = read_text(text);
    let reading = reading.unwrap_or_else(|| panic!("{out}"));
    let kinds: Vec<_> = reading.pipeline.steps.iter().map(|step| step.kind.name()).collect();
    assert_eq!(kinds, ["agent", "tool", "http", "run", "set", "approval", "sleep", "sleep", "pipeline"]);
    let links: Vec<_> = reading.links.iter().map(|link| (link.to, link.name.as_str())).collect();
    for link in [
        (LinkTo::Model, "fast"),
        (LinkTo::Model, "sonnet"),
        (LinkTo::Tool, "mcp__memory__read_graph"),
        (LinkTo::Env, "TOKEN"),
        (LinkTo::Pipeline, "other"),
    ] {
        assert!(links.contains(&link), "{link:?} in {links:?}");
    }
    assert_eq!(reading.used.agents.len() + reading.used.schemas.len(), 2);
}

#[test]
fn a_damaged_or_later_definition_is_refused() {
    let (reading, _) = read_text(&with_steps("  - {id: a, set: 1}"));
    let file = SourceFile::new("pipelines/p.yaml", &with_steps("  - {id: a, set: 1}"));
    let good = Bundle::new(reading.unwrap().pipeline.name, &file, &Files::default()).unwrap().definition();
    assert!(compile(&good).is_ok());
    let mut damaged = good.clone();
    damaged.body = good.body.replace("set: 1", "set: 2").into();
    assert!(compile(&damaged).unwrap_err().to_string().contains("damaged"));
    let mut later = good.clone();
    later.body = good.body.replace("\"format\":1", "\"format\":2").into();
    later.digest = Digest::of(later.body.as_bytes());
    assert!(compile(&later).unwrap_err().to_string().contains("update teamster"));
    let mut renamed = good;
    renamed.name = PipelineName::new("other").unwrap();
    assert!(compile(&renamed).is_err());
}

#[test]
fn deep_and_self_repeating_documents_are_refused() {
    let deep = format!("name: {}{}", "[".repeat(5_000), "]".repeat(5_000));
    assert!(read_text(&deep).0.is_none());
    let mut bomb = "name: p\na0: &a0 [x]\n".to_owned();
    bomb.extend((1..40).map(|n| format!("a{n}: &a{n} [*a{}, *a{}]\n", n - 1, n - 1)));
    assert!(read_text(&bomb).0.is_none());
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "(\\PC|\n| ){0,200}") {
        read_text(&text);
    }

    #[test]
    fn nothing_that_looks_like_a_pipeline_makes_it_panic(
        lines in proptest::collection::vec(prop_oneof![
            Just("name: p"), Just("steps:"), Just("  - id: a"), Just("  - id: b"), Just("    set: \"{{ steps.a.output }}\""),
            Just("    needs: [b]"), Just("    if: steps.b.error"), Just("    foreach: input.x"), Just("    agent: writer"),
            Just("    prompt: |"), Just("      x {{ input.x }}"), Just("on:"), Just("  - webhook: x"), Just("    http: {url: x}"),
            Just("    sleep: {until: x}"), Just("    run: {command: [a]}"), Just("input: {type: object}"), Just("é: ü"),
            Just("output: \"{{ steps.b }}\""), Just("    output: schemas/a.json"), Just("  - *x"), Just("x: &x 1"),
        ], 0..16)
    ) {
        let text = lines.join("\n");
        let (reading, out) = read_text(&text);
        prop_assert_eq!(reading.is_none(), out.has_errors(), "{}\n{}", text, out);
        // What can be read can be kept and compiled, with the same digest each time.
        if let Some(reading) = reading {
            let file = SourceFile::new("pipelines/p.yaml", &text);
            let bundle = Bundle::new(reading.pipeline.name.clone(), &file, &reading.used).unwrap();
            let again = Bundle::new(reading.pipeline.name, &file, &reading.used).unwrap();
            prop_assert_eq!(bundle.digest(), again.digest());
            prop_assert!(compile(&bundle.definition()).is_ok());
        }
    }
}

#[test]
fn what_cannot_be_repeated_is_refused_in_its_place() {
    let groups = |rest: &str| format!("name: p\nsteps:\n{rest}");
    for (steps, expected) in [
        ("  - { id: g, repeat: { until: true }, steps: [{ id: a, set: 1 }] }\n", "`max`"),
        ("  - { id: g, repeat: { until: true, max: 0 }, steps: [{ id: a, set: 1 }] }\n", "1 to 100"),
        ("  - { id: g, repeat: { until: true, max: 2 }, steps: [] }\n", "at least one step"),
        ("  - { id: g, steps: [{ id: a, set: 1 }] }\n", "`repeat`"),
        (
            "  - { id: g, repeat: { until: true, max: 2 }, steps: [{ id: a, repeat: { until: true, max: 2 }, set: 1 }] }\n",
            "cannot repeat anything itself",
        ),
        (
            "  - { id: g, repeat: { until: true, max: 2 }, steps: [{ id: a, set: 1 }] }\n  - { id: b, needs: [a], set: 1 }\n",
            "done only when `g` is",
        ),
        ("  - { id: a, set: '{{ round }}' }\n", "no name `round`"),
        ("  - { id: g, foreach: [1], repeat: { until: true, max: 2 }, steps: [{ id: a, set: 1 }] }\n", "foreach"),
    ] {
        let file = SourceFile::new("pipelines/p.yaml", &groups(steps));
        let mut out = Diagnostics::new();
        let reading = read(&file, &Files::default(), &Digest::of(b""), &mut out);
        let text = format!("{out:?}");
        assert!(reading.is_none() && text.contains(expected), "{steps}: {text}");
    }
}

#[test]
fn what_is_repeated_may_look_at_the_round_before_and_what_follows_at_the_last() {
    let text = "name: p\nsteps:\n  - id: g\n    repeat: { until: steps.b.output, max: 2 }\n    steps:\n      - { id: a, set: '{{ steps.b.output }}' }\n      - { id: b, set: '{{ steps.a.output }} {{ round }}' }\n  - { id: c, set: '{{ steps.g.output }} {{ steps.b.output }}' }\n";
    let mut out = Diagnostics::new();
    let file = SourceFile::new("pipelines/p.yaml", text);
    let pipeline = read(&file, &Files::default(), &Digest::of(b""), &mut out).unwrap().pipeline;
    let ids: Vec<&str> = pipeline.steps.iter().map(|step| step.id.as_str()).collect();
    assert_eq!(ids, ["g", "a", "b", "c"]);
    let again = crate::pipeline::replay::reset(&pipeline, Some(&crate::id::StepId::new("g").unwrap())).unwrap();
    assert_eq!(again.len(), 4, "a group is replayed with its steps");
}
