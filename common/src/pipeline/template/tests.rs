#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::clock::Timestamp;
use crate::diagnostic::{Diagnostics, SourceFile};
use crate::id::{Digest, StepId, StepKey, TaskId};
use crate::journal::{Event, Recorded, Run, StepOutcome, StepRun, StepStatus, Submitted, Usage};
use crate::pipeline::model::Pipeline;
use crate::pipeline::source::{self, Files};
use crate::task::samples;

fn pipeline() -> Pipeline {
    let text = "name: p\nsteps:\n  - {id: research, set: 1}\n  - {id: draft, set: 1}\n  - {id: review, set: 1}\n  - {id: list, set: 1}\n";
    let file = SourceFile::new("pipelines/p.yaml", text);
    source::read(&file, &Files::default(), &Digest::of(b""), &mut Diagnostics::new()).unwrap().pipeline
}

fn run() -> Run {
    let submitted = Submitted {
        input: json!({
            "company": "Acme", "n": 3, "f": 1.0, "big": u64::MAX, "zero": 0, "nothing": null, "items": [1, 2, 3],
            "deep": {"a": {"b": [10, {"c": "x"}]}}, "z": 1, "a-b": "dash", "quote": "}}"
        }),
        labels: BTreeMap::from([("tier".to_owned(), "gold".to_owned())]),
        ..samples::submitted()
    };
    let event = Event::Submitted(Box::new(submitted));
    let at = Timestamp::from_millis(0);
    let mut run = Run::fold(TaskId::new(at, [0; 10]), &[Recorded { seq: 1, at, event }]).unwrap();
    run.head.usage = Usage { input_tokens: 100, output_tokens: 20, cost_usd: 0.25, ..Usage::default() };
    let mut done = |step: &str, outcome| {
        let step_run = StepRun { status: StepStatus::Done(outcome), ..StepRun::default() };
        run.steps.insert(StepKey::of(StepId::new(step).unwrap()), step_run.into());
    };
    done("research", StepOutcome::Succeeded { output: json!({"score": 61, "text": "t"}) });
    done("draft", StepOutcome::Failed { error: Failure::new(FailureClass::Timeout, "too slow") });
    done("list", StepOutcome::Succeeded { output: json!(["a", null, "c"]) });
    run
}

fn env() -> BTreeMap<String, String> {
    BTreeMap::from([("CRM_URL".to_owned(), "https://crm".to_owned())])
}

fn render(template: Value) -> Result<Value, Failure> {
    let (pipeline, run, env, item) = (pipeline(), run(), env(), json!({"name": "i"}));
    let scope = Scope::of_run(&pipeline, &run, &env).with_item(&item, 2);
    Template::new(template, "pipelines/p.yaml:3:5 (steps.x.set)")?.render(&scope)
}

#[test]
fn a_value_that_is_one_expression_keeps_its_type() {
    for (template, expected) in [
        ("{{ input.n }}", json!(3)),
        ("  {{- input.n -}}\n", json!(3)),
        ("{{ input.f }}", json!(1.0)),
        ("{{ input.big }}", json!(u64::MAX)),
        ("{{ input.f + 0 }}", json!(1.0)),
        ("{{ input.n * 2 }}", json!(6)),
        ("{{ input.n / 2 }}", json!(1.5)),
        ("{{ input.items }}", json!([1, 2, 3])),
        ("{{ input.deep.a.b[1].c }}", json!("x")),
        ("{{ input.deep.a.b.0 }}", json!(10)),
        ("{{ input.items[-1] }}", json!(3)),
        ("{{ input[\"a-b\"] }}", json!("dash")),
        ("{{ input['company'] }}", json!("Acme")),
        ("{{ input.items[1:] }}", json!([2, 3])),
        ("{{ input.items[index] }}", json!(3)),
        ("{{ input.nothing }}", json!(null)),
        ("{{ item }}", json!({"name": "i"})),
        ("{{ item.name ~ index }}", json!("i2")),
        ("{{ true }}", json!(true)),
        ("{{ [1, none, 'x'] }}", json!([1, null, "x"])),
        ("{{ {'score': steps.research.output.score, 'n': input.n} }}", json!({"score": 61, "n": 3})),
        ("{{ {'a': {'b': 1}} }}", json!({"a": {"b": 1}})),
        ("{{ \"}}\" }}", json!("}}")),
        ("{{ input.quote }}", json!("}}")),
        ("{{ input.items | length }}", json!(3)),
        ("{{ input.company | lower }}", json!("acme")),
        ("{{ input.items | map('string') | join('-') }}", json!("1-2-3")),
        ("{{ steps.list.output }}", json!(["a", null, "c"])),
        ("{{ steps.list.output | length }}", json!(3)),
        ("{{ task.pipeline }}", json!("p")),
        ("{{ task.labels.tier }}", json!("gold")),
        ("{{ task.cost_usd }}", json!(0.25)),
        ("{{ task.tokens }}", json!(120)),
        ("{{ env.CRM_URL }}", json!("https://crm")),
        ("{{ input.items.0 if input.n > 2 else 'no' }}", json!(1)),
        ("{{ range(3) | list }}", json!([0, 1, 2])),
        ("{{ input.deep | items | list }}", json!([["a", {"b": [10, {"c": "x"}]}]])),
    ] {
        assert_eq!(render(json!(template)).map_err(|f| f.message), Ok(expected), "{template}");
    }
}

#[test]
fn everything_else_is_text() {
    for (template, expected) in [
        ("no template", "no template"),
        ("{{ input.n }}-{{ input.zero }}", "3-0"),
        ("{{ \"}}\" }}-{{ \"{{\" }}", "}}-{{"),
        ("a {{ input.n }}", "a 3"),
        ("{# nothing #}{{ input.n }}", "3"),
        ("{% raw %}{{ input.nope }}{% endraw %} {{ input.n }}", "{{ input.nope }} 3"),
        ("{% for item in input.items %}{{ item }}{{ loop.index }};{% endfor %}", "11;22;33;"),
        ("{% for x in input.deep.a.b %}{{ x.c | default('-') }}{% endfor %}", "-x"),
        ("{% set who = input.company %}Hello {{ who }}!", "Hello Acme!"),
        ("{% if steps.draft.error %}{{ steps.draft.error.class }}{% endif %} now", "timeout now"),
        ("{{ input.deep }}.", r#"{"a":{"b":[10,{"c":"x"}]}}."#),
        ("<{{ input.company }}> & {{ input.nothing }}", "<Acme> & none"),
        ("{{ input.f }} {{ input.deep | json }}", r#"1.0 {"a":{"b":[10,{"c":"x"}]}}"#),
        ("{ {{ input.n }} }", "{ 3 }"),
        ("é {{ input.company }} ü", "é Acme ü"),
    ] {
        assert_eq!(render(json!(template)).map_err(|f| f.message), Ok(json!(expected)), "{template}");
    }
}

#[test]
fn looking_into_none_gives_none() {
    for (template, expected) in [
        ("{{ steps.review.output.score.x }}", json!(null)),
        ("{{ steps.review.status }}", json!(null)),
        ("{{ steps.draft.output.a[0].b }}", json!(null)),
        ("{{ steps.research.error.message }}", json!(null)),
        ("{{ steps.draft.status }}", json!("failed")),
        ("{{ steps.review.output.score >= 60 }}", json!(false)),
        ("{{ steps.review.output.score == none }}", json!(true)),
        ("{{ steps.review.output.score is none }}", json!(true)),
        ("{{ steps.review.output.score | default(7) }}", json!(7)),
        ("{{ steps.review.output.approved or steps.research.output.score > 60 }}", json!(true)),
        ("{{ (steps.review.output.a.b or 'no') ~ '!' }}", json!("no!")),
        ("{{ input.nothing.deeper['x'] }}", json!(null)),
        ("{{ steps.list.output[1].name }}", json!(null)),
    ] {
        assert_eq!(render(json!(template)).map_err(|f| f.message), Ok(expected), "{template}");
    }
}

#[test]
fn what_may_be_missing_has_a_default() {
    for (template, expected) in [
        ("{{ input.inquiry | default(\"none\") }}", json!("none")),
        ("{{ input.inquiry|d('x') }}", json!("x")),
        ("{{ input.a.b.c | default(1) }}", json!(1)),
        ("{{ input.inquiry is defined }}", json!(false)),
        ("{{ input.company is defined }}", json!(true)),
        ("{{ input.inquiry is not defined }}", json!(true)),
        ("{{ input.inquiry is undefined or input.inquiry.x > 1 }}", json!(true)),
        ("{{ env.NOPE | default('x') }}", json!("x")),
        ("{{ input.items[7] | default('x') }}", json!("x")),
        ("{{ input.nothing | default('x') }}", json!("x")),
        ("{{ input.zero | default('x') }}", json!(0)),
        ("{{ input.zero | default('x', true) }}", json!("x")),
    ] {
        assert_eq!(render(json!(template)).map_err(|f| f.message), Ok(expected), "{template}");
    }
}

#[test]
fn what_is_not_there_is_an_error_that_names_file_line_and_key() {
    for (template, shown) in [
        ("{{ input.inqury }}", "`input.inqury`"),
        ("x {{ input.inqury }}", "`input.inqury`"),
        ("{{ inptu.x }}", "`inptu"),
        ("x {{ inptu.x }}", "`inptu.x`"),
        ("{{ input.typo >= 5 }}", "`input.typo`"),
        ("{{ input.typo == 'x' or true }}", "`input.typo`"),
        ("{% if input.typo %}x{% endif %}", "`input.typo`"),
        ("{{ steps.nope.output }}", "`steps.nope.output`"),
        ("{{ steps.research.outptu }}", "`steps.research.outptu`"),
        ("{{ steps.research.output.nope }}", "`steps.research.output.nope`"),
        ("{{ input.deep.a['z'].y }}", "`input.deep.a['z']`"),
        ("{{ input.items[9] }}", "`input.items[9]`"),
        ("{{ env.NOPE }}", "the environment variable NOPE is not set"),
        ("{{ input.typo | upper }}", "`input.typo`"),
        ("{{ input.items | first | nofilter }}", "nofilter"),
    ] {
        let failure = render(json!({"body": [template]})).unwrap_err();
        assert_eq!(failure.class, FailureClass::Template);
        assert!(failure.message.starts_with("pipelines/p.yaml:3:5 (steps.x.set)"), "{}", failure.message);
        assert!(failure.message.contains(shown), "{template}: {}", failure.message);
    }
    let failure = render(json!({"body": ["ok", "{{ input.inqury }}"]})).unwrap_err();
    assert!(failure.message.contains("at /body/1: "), "{}", failure.message);
}

#[test]
fn conditions_hold_as_in_jinja() {
    let (pipeline, run, env) = (pipeline(), run(), env());
    let scope = Scope::of_run(&pipeline, &run, &env);
    for (condition, expected) in [
        ("steps.research.error or steps.research.output.score >= 60", true),
        ("steps.draft.status == \"succeeded\"", false),
        ("steps.review.output.approved", false),
        ("not input.zero", true),
        ("input.zero", false),
        ("input.items", true),
        ("input.company in ['Acme']", true),
        ("steps.draft.error", true),
        ("'x' is string", true),
        ("input.n is divisibleby(3) and not (input.zero)", true),
    ] {
        assert_eq!(Expression::new(condition, "x").unwrap().holds(&scope), Ok(expected), "{condition}");
    }
    assert!(Expression::new("input.typo", "x").unwrap().holds(&scope).is_err());
    assert!(Expression::new("not input.typo", "x").unwrap().holds(&scope).is_err());
}

#[test]
fn triggers_and_labels_have_scopes_of_their_own() {
    let (event, env) = (json!({"pull_request": {"draft": false}, "number": 7}), env());
    let headers = BTreeMap::from([("x-event".to_owned(), "push".to_owned())]);
    let scope = Scope::of_event(&event, &headers, &env);
    let condition = Expression::new("not event.pull_request.draft", "x").unwrap();
    assert_eq!(condition.holds(&scope), Ok(true));
    let template = Template::new(json!("{{ headers['x-event'] }} {{ event.number }} {{ env.CRM_URL }}"), "x").unwrap();
    assert_eq!(template.render(&scope), Ok(json!("push 7 https://crm")));
    assert!(Template::new(json!("{{ input.x }}"), "x").unwrap().render(&scope).is_err());
    let label = Template::new(json!("{{ input.n }}"), "x").unwrap();
    assert_eq!(label.render_text(&Scope::of_input(&json!({"n": 1}))).as_deref(), Ok("1"));
}

#[test]
fn syntax_errors_are_found_at_once_and_in_their_place() {
    for (text, offset) in [("{{ input.n +* 2 }}", 12), ("Hi {{ input. }}", 13), ("{% if %}x", 6), ("{{ a b }}", 5)] {
        let error = inspect_text(text).unwrap_err();
        assert_eq!(error.offset, offset, "{text}: {}", error.message);
        assert!(Template::new(json!(text), "x").is_err());
    }
    for text in ["", "  ", "a +", "{{ a }}", "a b"] {
        assert!(Expression::new(text, "x").is_err(), "{text}");
    }
}

#[test]
fn rendering_is_bounded_in_work_and_output() {
    let work = "{% for a in range(9999) %}{% for b in range(9999) %}{{ b }}{% endfor %}{% endfor %}";
    let output = "{% for a in range(9999) %}{{ 'xxxxxxxxxx' * 1000 }}{% endfor %}";
    assert!(render(json!(work)).unwrap_err().message.contains("instructions"));
    let failure = render(json!(output)).unwrap_err();
    assert!(failure.message.contains("longer than"), "{}", failure.message);
}

#[test]
fn references_are_listed_with_their_places() {
    let text = "Hi {{ input.a }} {% if steps.x.output[0] == 'steps.y' %}{{ env.Z | default('') }}{% endif %}";
    let found = inspect_text(text).unwrap();
    let found: Vec<(&str, usize)> = found.iter().map(|r| (r.written.last().unwrap().as_str(), r.offset)).collect();
    assert_eq!(found, [("input.a", 6), ("steps.x.output[0]", 23), ("env.Z", text.find("env").unwrap())]);
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in ".{0,80}") {
        let _ = inspect_text(&text).map(|_| render(json!(text)));
        let _ = inspect_expression(&text);
    }

    #[test]
    fn nothing_that_looks_like_a_template_makes_it_panic(
        parts in proptest::collection::vec(prop_oneof![
            Just("{{"), Just("}}"), Just("{%"), Just("%}"), Just(" "), Just("input"), Just("."), Just("a"), Just("["),
            Just("]"), Just("'"), Just("\""), Just("|"), Just("default"), Just("("), Just(")"), Just("is"), Just("not"),
            Just("defined"), Just("if"), Just("for"), Just("in"), Just("raw"), Just("endraw"), Just("set"), Just("="),
            Just("1"), Just(":"), Just("é"), Just("\\"), Just("-"), Just("{#"), Just("#}"), Just("steps"), Just("{"),
        ], 0..24)
    ) {
        let text = parts.concat();
        let _ = inspect_text(&text).map(|_| render(json!(text)));
        let _ = inspect_expression(&text);
    }

    #[test]
    fn rewriting_never_breaks_what_minijinja_accepts(
        parts in proptest::collection::vec(prop_oneof![
            Just("input"), Just(".items"), Just("[0]"), Just("['a']"), Just(" + "), Just(" | default(1)"), Just("item"),
            Just(" is defined"), Just(" and "), Just(" not "), Just("("), Just(")"), Just("1"), Just("[1:2]"), Just(" if "),
            Just(" else "), Just(".items()"), Just(" in "), Just("[input.n]"), Just(", "), Just("["), Just("]"),
        ], 0..10)
    ) {
        let source = parts.concat();
        let env = minijinja::Environment::new();
        if !source.trim().is_empty() {
            prop_assert_eq!(env.compile_expression(&source).is_ok(), inspect_expression(&source).is_ok(), "{}", source);
        }
    }
}
