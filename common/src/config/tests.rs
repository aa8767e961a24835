#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::diagnostic::{Diagnostics, SourceFile};

fn parse(text: &str) -> Result<Config, Diagnostics> {
    let mut out = Diagnostics::new();
    Config::parse(&SourceFile::new("teamster.yaml", text), Vec::new(), &mut out).ok_or(out)
}

#[test]
fn every_problem_is_reported_in_its_place() {
    for (text, place, message) in [
        ("stor: x", (1, 1), "unknown key `stor`"),
        ("limits: {input: 5XB}", (1, 17), "is not a size"),
        ("limits: {inputs: 1}", (1, 10), "unknown field `inputs`"),
        ("webhooks:\n  a: {sender: github}", (2, 6), "missing field `secret`"),
        ("webhooks:\n  a: {sender: github, secret: hunter2}", (2, 31), "a secret is a reference"),
        ("webhooks:\n  a: {sender: gitlab, secret: env:A}", (2, 15), "there is no sender `gitlab`"),
        ("webhooks:\n  a: {sender: hmac, secret: env:A}", (2, 6), "needs the key `hmac`"),
        ("models:\n  s: {provider: antropic, model: x}", (2, 17), "there is no provider `antropic`"),
        ("default_model: gpt", (1, 16), "there is no model `gpt`"),
        ("providers:\n  local: {base_url: http://x}", (2, 10), "needs a `kind`"),
        ("providers:\n  anthropic: {base_url: x}", (2, 25), "must start with https://"),
        ("providers:\n  anthropic: {kind: gemini}", (2, 21), "use anthropic, openai, rehearsal"),
        ("mcp_servers:\n  m: {command: []}", (2, 16), "`command` must be a list"),
        ("mcp_servers:\n  m: {}", (2, 6), "needs a `command` that starts it, or the `url`"),
        ("mcp_servers:\n  m: {command: [a], url: http://a}", (2, 6), "a `command` or a `url`, not both"),
        (
            "mcp_servers:\n  m: {command: [a], auth: {client_credentials: {token_url: http://a, client_id: a, client_secret: env:A}}}",
            (2, 6),
            "for MCP servers with a `url`",
        ),
        ("mcp_servers:\n  m: {url: http://a, env: {A: b}}", (2, 6), "are for MCP servers with a `command`"),
        ("mcp_servers:\n  m: {url: a}", (2, 12), "must start with https://"),
        ("mcp_servers:\n  m: {url: http://a, retries: 3}", (2, 22), "unknown field `retries`"),
        ("mcp_servers:\n  m: {url: http://a, headers: {'a b': c}}", (2, 32), "not the name of a header"),
        ("mcp_servers:\n  m: {url: http://a, headers: {Mcp-Session-Id: c}}", (2, 32), "set by the transport itself"),
        ("mcp_servers:\n  m: {url: http://a, auth: {password: x}}", (2, 29), "unknown field `password`"),
        (
            "mcp_servers:\n  m: {url: http://a, auth: {client_credentials: {token_url: https://a, client_id: a, client_secret: hunter2}}}",
            (2, 101),
            "a secret is a reference",
        ),
        (
            "mcp_servers:\n  m: {url: http://a, auth: {client_credentials: {token_url: a, client_id: a, client_secret: env:A}}}",
            (2, 61),
            "`token_url` must start",
        ),
        ("mcp_servers:\n  m: {url: http://a, protocol_versions: [2025-01-01]}", (2, 42), "use 2024-11-05, 2025-03-26"),
        (
            "mcp_servers:\n  m: {url: http://a, protocol_versions: [2024-11-05]}",
            (2, 41),
            "not spoken over streamable HTTP",
        ),
        ("mcp_servers:\n  m: {url: http://a, server: {name: x}}", (2, 30), "missing field `version`"),
        ("mcp_servers:\n  m: {url: http://a, tools: ['get contact']}", (2, 29), "no name of a tool"),
        ("tools:\n  t: {description: d, input: {}, method: FETCH, url: http://x}", (2, 42), "is no method"),
        ("tools:\n  t: {description: d, input: {type: x}, method: GET, url: http://x}", (2, 30), "JSON Schema"),
        ("env: [CRM URL]", (1, 7), "no name of an environment variable"),
        ("worker: {slots: 0}", (1, 17), "`slots` must be"),
        ("worker: {lease: 8}", (1, 17), "expected a string"),
        ("worker: {lease: 8 s}", (1, 17), "is not a duration"),
        ("sandbox: {mode: maybe}", (1, 17), "use require, prefer, off"),
        ("sandbox: {network: true}", (1, 11), "unknown field `network`"),
        ("sandbox: {bash: {reads: []}}", (1, 18), "unknown field `reads`"),
        ("sandbox: {bash: {read: [src]}}", (1, 25), "is no place"),
        ("sandbox: {run: {processes: 0}}", (1, 28), "`processes` must be at least 1"),
        ("mcp_servers:\n  m: {command: [x], sandbox: {memory: 1KiB}}", (2, 39), "at least 16MiB"),
        ("mcp_servers:\n  m: {command: [x], sandbox: {mode: false}}", (2, 37), "expected one of require, prefer, off"),
        ("private_data: {key: env:K}", (1, 15), "nothing is said to be private"),
        ("private_data: {kinds: [email]}", (1, 15), "missing field `key`"),
        ("private_data: {key: hunter2, kinds: [email]}", (1, 21), "a secret is a reference"),
        ("private_data: {key: [], kinds: [email]}", (1, 21), "`key` is an empty list"),
        ("private_data: {key: env:K, kinds: [mail]}", (1, 36), "use email, phone, card, iban"),
        ("private_data: {key: env:K, fields: ['a\"b']}", (1, 37), "not the name of a field"),
        ("private_data:\n  key: env:K\n  patterns: {no: '('}", (3, 18), "not a pattern: unclosed group"),
        ("private_data:\n  key: env:K\n  patterns: {no: 'a*'}", (3, 18), "it fits the empty text"),
        ("private_data:\n  key: env:K\n  patterns: {NO: 'a'}", (3, 14), "cannot be the name of a pattern"),
        ("private_data:\n  key: env:K\n  patterns: {email: 'a'}", (3, 14), "cannot be the name of a pattern"),
        ("private_data: {key: env:K, fields: [a], except: [b, '[']}", (1, 53), "not a pattern"),
        ("private_data: {key: env:K, fields: [a], reveal: {tool: []}}", (1, 50), "unknown field `tool`"),
        ("effects: {Read: sometimes}", (1, 17), "use read, keyed, once"),
        ("a: [", (1, 4), "unclosed bracket"),
        ("- a", (1, 1), "must be a mapping"),
    ] {
        let problems = match parse(text) {
            Ok(config) => panic!("{text}: {config:?}"),
            Err(problems) => problems,
        };
        let first = problems.iter().next().unwrap();
        assert!(first.message.contains(message), "{text}: {first}");
        assert_eq!((first.line, first.column), (Some(place.0), Some(place.1)), "{text}: {first}");
    }
}

#[test]
fn a_secret_that_stands_in_the_file_is_not_repeated_in_the_message() {
    let problems = parse("api:\n  token: hunter2\n").unwrap_err();
    assert!(problems.iter().all(|problem| !problem.message.contains("hunter2")), "{problems}");
}

#[test]
fn several_problems_are_reported_at_once() {
    let problems =
        parse("stor: x\nlimits: {input: x}\nmodels: {a: {provider: b}}\nwebhooks: {a: 1, b: 2}\n").unwrap_err();
    assert_eq!(problems.errors(), 5, "{problems}");
}

#[test]
fn an_empty_file_has_the_defaults() {
    for text in ["", "\n# nothing\n", "---\n", "{}"] {
        assert_eq!(parse(text).unwrap(), Config::default(), "{text:?}");
    }
}

#[test]
fn models_have_names_without_configuration() {
    let config = Config::default();
    for (name, provider) in
        [("rehearsal", "rehearsal"), ("opus", "anthropic"), ("sonnet", "anthropic"), ("claude-x", "anthropic")]
    {
        assert_eq!(config.model(Some(name)).unwrap().1.provider, provider);
    }
    assert_eq!(config.model(None).unwrap().0, "sonnet");
    assert_eq!(config.model(Some("inherit")).unwrap().0, "sonnet");
    assert!(config.model(Some("gpt")).is_err());
    let config = parse("models: { fast: { provider: rehearsal, model: r } }").unwrap();
    assert_eq!(config.model(None).unwrap().0, "fast");
}

#[test]
fn the_store_is_below_the_directory() {
    let url = |text: &str| parse(text).unwrap().store_url(Path::new("/p"));
    assert_eq!(url(""), "sqlite:/p/.teamster/teamster.db");
    assert_eq!(url("store: sqlite:x/y.db"), "sqlite:/p/x/y.db");
    assert_eq!(url("store: sqlite:/abs.db"), "sqlite:/abs.db");
    assert_eq!(url("store: redis://h"), "redis://h");
}

#[test]
fn limits_reach_the_store() {
    let config = parse("limits: {input: 2KiB, journal: 1MiB, queue_depth: 5}").unwrap();
    let options = config.store_options(Path::new("/p"), Arc::new(crate::entropy::SeededEntropy::new(1)));
    assert_eq!(
        (options.limits.input_bytes, options.limits.journal_bytes, options.limits.queue_depth),
        (2048, 1 << 20, 5)
    );
}

#[test]
fn what_is_kept_of_finished_tasks_is_said_in_counts_spans_and_sizes() {
    let config = parse("retention: {finished: {count: 5, age: 7d, bytes: 2GiB}, dead: {count: null}}").unwrap();
    let options = config.store_options(Path::new("/p"), Arc::new(crate::entropy::SeededEntropy::new(1)));
    let week = Some("7d".parse().unwrap());
    assert_eq!(options.retention.finished, crate::store::Keep { count: Some(5), age: week, bytes: Some(2 << 30) });
    assert_eq!(options.retention.dead, crate::store::Keep { count: None, ..Default::default() });
    let problems = parse("retention: {finished: {age: 7 days}}").unwrap_err();
    assert!(problems.to_string().contains("write a number and a unit"), "{problems}");
}

#[test]
fn what_a_sandbox_is_to_allow_is_said_for_each_kind_of_program() {
    let config = parse(
        "sandbox: {mode: off, bash: {mode: require, network: true, read: [~/.cargo], memory: 4GiB, cpu: 1h}}\n\
         mcp_servers: {m: {command: [x], sandbox: {network: false, write: [/var/lib/m]}}}",
    )
    .unwrap();
    let McpTransport::Stdio(program) = &config.mcp_servers["m"].transport else { panic!("it has a command") };
    let (bash, server) = (config.sandbox.bash(), config.sandbox.server(program));
    assert_eq!((bash.mode, bash.network, bash.memory), (SandboxMode::Require, true, Some(4 << 30)));
    assert_eq!((server.mode, server.network, server.writes_everywhere()), (SandboxMode::Off, false, false));
}

#[test]
fn large_values_go_where_the_file_says() {
    let options = |text: &str| {
        parse(text).unwrap().store_options(Path::new("/p"), Arc::new(crate::entropy::SeededEntropy::new(1))).blobs
    };
    assert_eq!(options(""), BlobOptions::default());
    let folder = options("blobs: {threshold: 1MiB, place: 'file:big', cache: 1MiB}");
    assert_eq!((folder.threshold, folder.cache), (1 << 20, 1 << 20));
    assert_eq!(folder.place, BlobPlace::Folder("/p/big".into()));
    let bucket = options("blobs: {place: 's3://my-bucket/fleet', endpoint: 'http://127.0.0.1:9000'}");
    assert_eq!(bucket.place, BlobPlace::Bucket { bucket: "my-bucket".to_owned(), prefix: "fleet".to_owned() });
    assert_eq!(bucket.endpoint.as_deref(), Some("http://127.0.0.1:9000"));
}

#[test]
fn a_place_that_cannot_be_is_refused_where_it_stands() {
    let wrong = [
        ("blobs: {place: here}", "`store`, `file:PATH` or `s3://BUCKET/PREFIX`"),
        ("blobs: {threshold: 10}", "at least 1KiB"),
        ("blobs: {endpoint: 'http://h'}", "s3://"),
        ("blobs: {place: 's3://my-bucket', endpoint: h}", "https://"),
        ("blobs: {path: x}", "path"),
    ];
    for (text, said) in wrong {
        let problems = parse(text).unwrap_err().to_string();
        assert!(problems.contains(said) && problems.contains("teamster.yaml:1"), "{problems}");
    }
}

#[test]
fn an_mcp_server_elsewhere_says_who_we_are_what_it_is_and_which_tools_there_are() {
    let config = parse(
        "mcp_servers:
  crm:
    url: https://crm.example.com/mcp
    headers: { X-Tenant: acme, X-Key: env:CRM_KEY }
    auth: { client_credentials: { token_url: https://id.example.com/token, client_id: t, client_secret: env:S, scope: a b } }
    server: { name: crm, version: 1.4.2 }
    protocol_versions: [2025-06-18, 2025-11-25]
    tools: ['get_*']
    effects: { get_contact: read }
",
    )
    .unwrap();
    let server = &config.mcp_servers["crm"];
    let McpTransport::Http(endpoint) = &server.transport else { panic!("{server:?}") };
    assert_eq!((endpoint.url.as_str(), endpoint.headers.len()), ("https://crm.example.com/mcp", 2));
    assert_eq!(endpoint.auth.as_ref().unwrap().client_credentials.scope.as_deref(), Some("a b"));
    assert_eq!(server.versions(), [McpVersion::V20251125, McpVersion::V20250618], "the newest first");
    assert!(server.offers("get_contact") && !server.offers("delete_contact"));
    let program = parse("mcp_servers: { m: { command: [a] } }").unwrap();
    assert_eq!(program.mcp_servers["m"].versions()[0], McpVersion::V20251125);
}

#[test]
fn a_secret_that_would_go_out_in_clear_is_warned_of() {
    let warned = |text: &str| {
        let mut out = Diagnostics::new();
        Config::parse(&SourceFile::new("teamster.yaml", text), Vec::new(), &mut out).unwrap();
        out.warnings() > 0
    };
    let server =
        |url: &str, key: &str| format!("mcp_servers: {{ m: {{ url: '{url}', headers: {{ X-Key: '{key}' }} }} }}");
    assert!(warned(&server("http://crm.example.com/mcp", "env:KEY")));
    for (url, key) in [
        ("http://crm.example.com/mcp", "no secret"),
        ("https://crm.example.com/mcp", "env:KEY"),
        ("http://127.0.0.1:3001/mcp", "env:KEY"),
        ("http://localhost/mcp", "env:KEY"),
        ("http://[::1]:3001/mcp", "env:KEY"),
    ] {
        assert!(!warned(&server(url, key)), "{url} {key}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "(\\PC|\n){0,120}") {
        let _ = parse(&text);
    }
}
