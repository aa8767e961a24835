//! Who we are to an MCP server: headers, and access tokens for client credentials.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::clock::{ManualClock, Timestamp};
use common::failure::{Failure, FailureClass};
use serde_json::{Value, json};
use suite::fakes::calls::{call, ok_text};
use suite::fakes::mcp::{options, servers};
use suite::fakes::mcp_http::{FakeMcp, Manners};
use suite::fakes::oauth::{Answer, FakeTokens};
use worker::tools::mcp::{McpOptions, McpServers};
use worker::tools::{Tool, ToolAnswer, ToolError};

const CANARY: &str = "canary s/cret+";

/// A server that wants tokens, and where they come from.
struct Place {
    fake: FakeMcp,
    tokens: FakeTokens,
    clock: ManualClock,
    servers: McpServers,
    _secret: tempfile::NamedTempFile,
}

impl Place {
    async fn new(more: Value) -> Self {
        let tokens = FakeTokens::start().await;
        let accepted = (1..10).map(|n| format!("token-{n}")).collect();
        let fake = FakeMcp::start(Manners { tokens: accepted, ..Manners::default() }).await;
        let mut secret = tempfile::NamedTempFile::new().unwrap();
        writeln!(secret, "{CANARY}").unwrap();
        let mut credentials = json!({
            "token_url": tokens.url,
            "client_id": "team:ster",
            "client_secret": format!("file:{}", secret.path().display()),
        });
        credentials.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let clock = ManualClock::at(Timestamp::from_millis(1_000_000));
        let server = fake.configured(&json!({"auth": {"client_credentials": credentials}}));
        let options = McpOptions { clock: Arc::new(clock.clone()), ..options(Path::new("."), 1 << 20) };
        let servers = McpServers::new(&servers([("far", server)]), &options).unwrap();
        Self { fake, tokens, clock, servers, _secret: secret }
    }

    async fn tool(&self) -> Arc<dyn Tool> {
        let tools = self.servers.tools("far").await.unwrap();
        tools.into_iter().find(|tool| tool.spec().name == "mcp__far__echo").unwrap()
    }

    async fn call(&self) -> Result<ToolAnswer, ToolError> {
        let tool = self.tool().await;
        tool.call(call(&*tool, json!({}), Path::new("."))).await
    }

    async fn refusal(&self) -> Failure {
        let failure = self.servers.tools("far").await.unwrap_err();
        let shown = format!("{failure:?} {:?}", self.servers);
        assert!(!shown.contains("canary") && !shown.contains("token-1"), "{shown}");
        failure
    }
}

#[tokio::test]
async fn one_token_serves_all_calls_until_shortly_before_it_expires() {
    let place = Place::new(json!({"scope": "contacts.read contacts.write"})).await;
    let tool = place.tool().await;
    let calls = || (0..20).map(|_| tool.call(call(&*tool, json!({}), Path::new("."))));
    for answer in futures::future::join_all(calls()).await {
        ok_text(&answer);
    }
    assert_eq!(place.tokens.asked().len(), 1);
    let asked = &place.tokens.asked()[0];
    // team%3Aster:canary+s%2Fcret%2B
    assert_eq!(asked.authorization.as_deref(), Some("Basic dGVhbSUzQXN0ZXI6Y2FuYXJ5K3MlMkZjcmV0JTJC"));
    let resource = place.fake.url.replace(':', "%3A").replace('/', "%2F");
    let form = format!("grant_type=client_credentials&resource={resource}&scope=contacts.read+contacts.write");
    assert_eq!(asked.form, form);
    place.clock.advance(Duration::from_secs(539));
    ok_text(&place.call().await);
    assert_eq!(place.tokens.asked().len(), 1);
    place.clock.advance(Duration::from_secs(1));
    for answer in futures::future::join_all(calls()).await {
        ok_text(&answer);
    }
    assert_eq!(place.tokens.asked().len(), 2, "all callers share the renewal");
    let used: Vec<String> =
        place.fake.messages("tools/call").into_iter().map(|seen| seen.headers["authorization"].clone()).collect();
    assert_eq!((used.first().unwrap().as_str(), used.last().unwrap().as_str()), ("Bearer token-1", "Bearer token-2"));
}

#[tokio::test]
async fn a_token_that_is_not_accepted_is_renewed_once_for_all() {
    let place = Place::new(json!({})).await;
    let tool = place.tool().await;
    place.fake.change(|manners| {
        manners.tokens.remove("token-1");
    });
    let calls = (0..10).map(|_| tool.call(call(&*tool, json!({}), Path::new("."))));
    for answer in futures::future::join_all(calls).await {
        ok_text(&answer);
    }
    assert_eq!(place.tokens.asked().len(), 2);
    assert_eq!((place.fake.effects("echo"), place.fake.messages("initialize").len()), (10, 1));
}

#[tokio::test]
async fn a_server_that_accepts_no_token_is_an_authentication_failure() {
    let place = Place::new(json!({})).await;
    place.fake.change(|manners| manners.tokens = ["another".to_owned()].into());
    for _ in 0..3 {
        let failure = place.refusal().await;
        assert_eq!(failure.class, FailureClass::Authentication, "{failure}");
    }
    assert_eq!(place.fake.messages("server/discover").len(), 4, "twice for each of two tries; then it waits");
}

#[tokio::test]
async fn what_a_token_endpoint_says_is_classed_and_not_repeated() {
    use FailureClass as Class;
    let echo = |error: &str| json!({"error": error, "error_description": CANARY, "token-1": "token-1"});
    for (status, body, class) in [
        (401, echo("invalid_client"), Class::Authentication),
        (400, echo("invalid_client"), Class::Authentication),
        (400, echo("invalid_scope"), Class::Configuration),
        (403, json!(CANARY), Class::Authentication),
        (429, json!(null), Class::RateLimited),
        (500, json!(CANARY), Class::Unavailable),
        (302, json!(null), Class::InvalidRequest),
        (200, json!({"token": CANARY}), Class::Protocol),
        (200, json!({"access_token": CANARY, "token_type": "mac"}), Class::Protocol),
        (200, json!({"access_token": "x".repeat(100_000), "token_type": "bearer"}), Class::Limit),
    ] {
        let place = Place::new(json!({})).await;
        place.tokens.answer(Answer { status, body: body.clone() });
        let failure = place.refusal().await;
        assert_eq!(failure.class, class, "{status} {failure}");
        assert!(failure.message.contains("no access token from http://127.0.0.1:"), "{failure}");
        assert!(place.fake.seen().is_empty(), "nothing goes out without a token");
        place.tokens.answer(Answer::default());
        ok_text(&place.call().await);
    }
}

#[tokio::test]
async fn the_secret_may_go_in_the_body_and_the_token_be_for_another_resource() {
    let place = Place::new(json!({"method": "client_secret_post", "resource": "https://crm"})).await;
    ok_text(&place.call().await);
    let asked = &place.tokens.asked()[0];
    assert_eq!(asked.authorization, None);
    let form = "grant_type=client_credentials&resource=https%3A%2F%2Fcrm&client_id=team%3Aster&client_secret=canary+s%2Fcret%2B";
    assert_eq!(asked.form, form);
}

#[tokio::test]
async fn headers_go_along_and_their_secrets_are_not_shown() {
    let fake = FakeMcp::start(Manners::default()).await;
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), CANARY).unwrap();
    let headers = json!({"X-Tenant": "acme", "X-Key": format!("file:{}", secret.path().display())});
    let servers = McpServers::new(
        &servers([("far", fake.configured(&json!({"headers": headers})))]),
        &options(Path::new("."), 1 << 20),
    )
    .unwrap();
    servers.tools("far").await.unwrap();
    assert!(fake.seen().iter().all(|seen| seen.headers["x-key"] == CANARY && seen.headers["x-tenant"] == "acme"));
    assert!(!format!("{servers:?}").contains("canary"));
    let tell =
        servers.tools("far").await.unwrap().into_iter().find(|tool| tool.spec().name == "mcp__far__tell").unwrap();
    let answer = tell.call(call(&*tell, json!({}), Path::new("."))).await;
    let Err(ToolError::Failed(failure)) = answer else { panic!("{answer:?}") };
    let shown = format!("{failure:?}");
    assert!(shown.contains("x-tenant") && !shown.contains("canary"), "a server that repeats it: {shown}");
    fake.change(|manners| manners.tokens = ["one that nobody has".to_owned()].into());
    let tools = servers.tools("far").await.unwrap();
    let answer = tools[0].call(call(&*tools[0], json!({}), Path::new("."))).await;
    let Err(ToolError::Failed(failure)) = answer else { panic!("{answer:?}") };
    assert_eq!(failure.class, FailureClass::Authentication);
    assert!(!format!("{failure:?}").contains("canary"), "{failure:?}");
}

#[tokio::test]
async fn a_header_that_cannot_be_had_is_a_configuration_failure() {
    let fake = FakeMcp::start(Manners::default()).await;
    let server = fake.configured(&json!({"headers": {"X-Key": "file:/nonexistent/key"}}));
    let servers = McpServers::new(&servers([("far", server)]), &options(Path::new("."), 1 << 20)).unwrap();
    let failure = servers.tools("far").await.unwrap_err();
    assert_eq!(failure.class, FailureClass::Configuration);
    assert!(failure.message.contains("MCP server far, headers X-Key"), "{failure}");
    assert!(fake.seen().is_empty());
}
