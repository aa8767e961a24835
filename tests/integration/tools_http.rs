//! HTTP tools, `WebFetch`, and what an agent is given, against servers on this machine.

use std::time::Duration;

use axum::Router;
use axum::extract::{Path, Request};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Redirect};
use axum::routing::{any, get, post};
use common::config::Config;
use common::failure::{Failure, FailureClass};
use common::journal::Effect;
use common::pipeline::model::Agent;
use serde_json::{Value, json};
use suite::fakes::calls::{call, error_text, ok_text};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use worker::http::{HttpClient, HttpRequest};
use worker::tools::registry::{ToolFilter, ToolOptions, Tools, validate};
use worker::tools::web::WebFetch;
use worker::tools::{Tool, ToolAnswer, ToolCall, ToolError};

/// Serves until the test ends; answers with the address.
async fn serve(router: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    format!("http://{address}")
}

/// Answers everything with what was asked.
async fn mirror(request: Request) -> impl IntoResponse {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let headers: serde_json::Map<String, Value> = parts
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap_or_default().into()))
        .collect();
    let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    axum::Json(json!({"method": parts.method.as_str(), "uri": parts.uri.to_string(), "headers": headers, "body": body}))
}

fn request(method: &str, url: String) -> HttpRequest {
    HttpRequest {
        method: method.to_owned(),
        url,
        headers: Vec::new(),
        json: None,
        key: None,
        traceparent: None,
        timeout: Duration::from_secs(20),
        response_limit: 1000,
    }
}

async fn refused(request: HttpRequest) -> (bool, Failure) {
    match HttpClient::new().unwrap().send(request).await {
        Err(ToolError::Failed(failure)) => (false, failure),
        Err(ToolError::Lost(failure)) => (true, failure),
        Ok(answer) => panic!("expected an error, got {answer:?}"),
    }
}

#[tokio::test]
async fn a_request_carries_its_key_its_trace_and_its_body() {
    let base = serve(Router::new().fallback(any(mirror))).await;
    let request = HttpRequest {
        json: Some(json!({"a": 1})),
        key: Some("the-key".to_owned()),
        traceparent: Some("00-1-2-01".to_owned()),
        headers: vec![("Authorization".to_owned(), "Bearer x".to_owned().into())],
        ..request("post", format!("{base}/path?q=1"))
    };
    let answer = HttpClient::new().unwrap().send(request).await.unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["content-type"], "application/json");
    let headers = &answer.body["headers"];
    for (name, value) in [("idempotency-key", "the-key"), ("traceparent", "00-1-2-01"), ("authorization", "Bearer x")] {
        assert_eq!(headers[name], value);
    }
    assert_eq!(
        (&answer.body["method"], &answer.body["uri"], &answer.body["body"]),
        (&json!("POST"), &json!("/path?q=1"), &json!({"a": 1}))
    );
}

#[tokio::test]
async fn answers_are_classed_by_what_is_known_of_the_effect() {
    async fn status(Path(status): Path<u16>, headers: HeaderMap) -> impl IntoResponse {
        let wait = headers.get("x-wait").cloned();
        let extra: HeaderMap = wait.into_iter().map(|wait| (header::RETRY_AFTER, wait)).collect();
        (StatusCode::from_u16(status).unwrap(), extra, "what is wrong")
    }
    use FailureClass as Class;
    let base = serve(Router::new().route("/{status}", any(status))).await;
    for (status, wait, lost, class) in [
        (400, false, false, Class::InvalidRequest),
        (401, false, false, Class::Authentication),
        (402, false, false, Class::Billing),
        (403, false, false, Class::Authentication),
        (404, false, false, Class::InvalidRequest),
        (408, false, false, Class::Timeout),
        (409, false, false, Class::InvalidRequest),
        (422, false, false, Class::InvalidRequest),
        (429, true, false, Class::RateLimited),
        (429, false, false, Class::RateLimited),
        (500, false, true, Class::Unavailable),
        (502, false, true, Class::Unavailable),
        (503, false, true, Class::Overloaded),
        (503, true, false, Class::Overloaded),
        (529, false, true, Class::Overloaded),
    ] {
        let headers = if wait { vec![("x-wait".to_owned(), "7".to_owned().into())] } else { Vec::new() };
        let (was_lost, failure) = refused(HttpRequest { headers, ..request("POST", format!("{base}/{status}")) }).await;
        assert_eq!((was_lost, failure.class), (lost, class), "{status}");
        assert_eq!(failure.retry_after_ms, wait.then_some(7000), "{status}");
        assert_eq!(failure.detail.unwrap()["body"], "what is wrong", "{status}");
    }
}

#[tokio::test]
async fn what_was_not_sent_failed_and_what_broke_off_is_lost() {
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (lost, failure) = refused(request("POST", format!("http://{closed}/"))).await;
    assert_eq!((lost, failure.class), (false, FailureClass::Connection), "{failure}");
    let (lost, failure) = refused(request("POST", "http://name.invalid/".to_owned())).await;
    assert_eq!((lost, failure.class), (false, FailureClass::Connection), "{failure}");
    for url in ["ftp://example.com", "no url", "file:///etc/passwd"] {
        let (lost, failure) = refused(request("GET", url.to_owned())).await;
        assert_eq!((lost, failure.class), (false, FailureClass::InvalidRequest), "{failure}");
    }
    // Reads the request, then answers with this and closes.
    for (answer, class) in [
        (&b""[..], FailureClass::Connection),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf", FailureClass::Connection),
        (b"SSH-2.0-OpenSSH_9.9\r\n", FailureClass::Connection),
    ] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = [0; 4096];
            let _ = stream.read(&mut buffer).await.unwrap();
            stream.write_all(answer).await.unwrap();
        };
        let ((lost, failure), ()) = tokio::join!(refused(request("POST", format!("http://{address}/"))), server);
        assert_eq!((lost, failure.class), (true, class), "{failure}");
    }
}

#[tokio::test]
async fn silence_is_a_lost_call_and_too_much_a_failed_one() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/?token=secret", silent.local_addr().unwrap());
    let (lost, failure) = refused(HttpRequest { timeout: Duration::from_millis(200), ..request("POST", url) }).await;
    assert_eq!((lost, failure.class), (true, FailureClass::Timeout));
    assert!(!failure.message.contains("secret"), "{failure}");
    let base = serve(Router::new().route("/", post(|| async { "x".repeat(2000) }))).await;
    let (lost, failure) = refused(request("POST", base)).await;
    assert_eq!((lost, failure.class), (false, FailureClass::Limit));
}

#[tokio::test]
async fn redirects_are_followed_only_where_that_is_safe() {
    let elsewhere = serve(Router::new().fallback(any(mirror))).await;
    let target = elsewhere.clone();
    let base = serve(
        Router::new()
            .route("/near", any(|| async { Redirect::temporary("/end") }))
            .route("/far", any(move || async move { Redirect::temporary(&target) }))
            .route("/loop", any(|| async { Redirect::temporary("/loop") }))
            .route("/end", get(|| async { "the end" })),
    )
    .await;
    let client = HttpClient::new().unwrap();
    assert_eq!(client.send(request("GET", format!("{base}/near"))).await.unwrap().body, "the end");
    for (method, path) in [("POST", "/near"), ("GET", "/far"), ("GET", "/loop")] {
        let (lost, failure) = refused(request(method, format!("{base}{path}"))).await;
        assert_eq!((lost, failure.class), (false, FailureClass::InvalidRequest), "{method} {path}");
    }
}

fn tools(config: Value) -> Result<Tools, Failure> {
    let config: Config = serde_json::from_value(config).unwrap();
    Tools::with_options(&config, &ToolOptions { allow_private_fetch: true, ..ToolOptions::default() })
}

fn calling(tool: &dyn Tool, arguments: Value) -> ToolCall {
    call(tool, arguments, std::env::temp_dir().as_path())
}

#[tokio::test]
async fn a_declared_request_is_a_tool_whose_arguments_stay_in_their_place() {
    let base = serve(Router::new().fallback(any(mirror))).await;
    let schema = json!({"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]});
    let tools = tools(json!({"tools": {
        "get_contact": {"description": "d", "input": schema, "method": "GET", "url": format!("{base}/contacts/{{{{ input.id }}}}?x=1"),
                        "headers": {"x-fixed": "yes"}},
        "put_contact": {"description": "d", "input": schema, "method": "PUT", "url": format!("{base}/contacts"),
                        "json": {"contact": {"id": "{{ input.id }}"}}, "effect": "keyed"},
        "add_contact": {"description": "d", "input": schema, "method": "POST", "url": base},
    }}))
    .unwrap();
    let set = tools.set(&ToolFilter::rules(&["get_contact", "put_contact", "add_contact"]).unwrap()).await.unwrap();
    let mirrored = async |name: &str, id: &str| -> Value {
        let tool = &*set[name];
        assert_eq!(validate(&tool.spec().input_schema, &json!({"id": id})), Ok(()));
        serde_json::from_str(&ok_text(&tool.call(calling(tool, json!({"id": id}))).await)).unwrap()
    };
    let get = mirrored("get_contact", "a/b?c&d#é").await;
    assert_eq!(get["uri"], "/contacts/a%2Fb%3Fc%26d%23%C3%A9?x=1");
    assert_eq!(get["headers"]["x-fixed"], "yes");
    let put = mirrored("put_contact", "7").await;
    assert_eq!((&put["method"], &put["body"]), (&json!("PUT"), &json!({"contact": {"id": "7"}})));
    assert_eq!(put["headers"]["idempotency-key"], "task/step/call");
    assert_eq!(mirrored("add_contact", "8").await["body"], json!({"id": "8"}));
    let effect = |name: &str| set[name].effect(&json!({"id": "7"}));
    assert_eq!(["get_contact", "put_contact", "add_contact"].map(effect), [Effect::Read, Effect::Keyed, Effect::Once]);
    let escape = set["get_contact"].call(calling(&*set["get_contact"], json!({"id": ".."}))).await;
    assert!(matches!(&escape, Err(ToolError::Failed(f)) if f.class == FailureClass::InvalidRequest), "{escape:?}");
}

#[tokio::test]
async fn a_refusal_of_the_request_itself_is_an_answer_for_the_model() {
    let base = serve(Router::new().route("/", post(|| async { (StatusCode::CONFLICT, "it exists") }))).await;
    let tools =
        tools(json!({"tools": {"add": {"description": "", "input": {}, "method": "POST", "url": base}}})).unwrap();
    let set = tools.set(&ToolFilter::one("add").unwrap()).await.unwrap();
    let text = error_text(&set["add"].call(calling(&*set["add"], json!({}))).await);
    assert!(text.contains("409") && text.contains("it exists"), "{text}");
}

#[tokio::test]
async fn an_agent_gets_what_its_file_allows_and_the_operator_classes_it() {
    let tools = tools(json!({"effects": {"Bash(git diff:*)": "read", "Bash(echo:*)": "keyed"}})).unwrap();
    let agent = |allow: Option<Value>, deny: Value| -> Agent {
        let texts = |value: Value| serde_json::from_value::<Vec<String>>(value).unwrap();
        Agent {
            name: "reviewer".into(),
            description: String::new(),
            tools: allow.map(texts),
            disallowed_tools: texts(deny),
            model: None,
            max_turns: None,
            mcp_servers: None,
            effort: None,
            system: String::new(),
            calls: common::pipeline::model::Callees::None,
            permission_mode: None,
            taint: Vec::new(),
            guards: Vec::new(),
            background: false,
            hooks: common::config::Hooks::default(),
            unsupported: Vec::new(),
        }
    };
    let names = async |allow, deny| -> Vec<String> {
        let filter = ToolFilter::of_agent(&agent(allow, deny), None).unwrap();
        tools.set(&filter).await.unwrap().into_keys().collect()
    };
    assert_eq!(names(None, json!([])).await, ["Bash", "Edit", "Glob", "Grep", "Read", "WebFetch", "Write"]);
    assert_eq!(names(None, json!(["Write", "Edit", "Bash(rm:*)"])).await, ["Bash", "Glob", "Grep", "Read", "WebFetch"]);
    assert_eq!(names(Some(json!(["Read", "Bash(echo:*)", "Task"])), json!([])).await, ["Bash", "Read"]);
    assert!(ToolFilter::of_agent(&agent(Some(json!(["Bash("])), json!([])), None).is_err());

    let filter =
        ToolFilter::of_agent(&agent(Some(json!(["Bash(echo:*)", "Read(public/**)"])), json!([])), None).unwrap();
    let set = tools.set(&filter).await.unwrap();
    let bash = &*set["Bash"];
    assert_eq!(ok_text(&bash.call(calling(bash, json!({"command": "echo hi"}))).await), "hi\n");
    let refusal = error_text(&bash.call(calling(bash, json!({"command": "echo hi; id"}))).await);
    assert!(refusal.contains("Bash(echo:*)"), "{refusal}");
    let effect = |command: &str| bash.effect(&json!({"command": command}));
    assert_eq!(["git diff HEAD", "echo a", "git diff; rm x"].map(effect), [Effect::Read, Effect::Keyed, Effect::Once]);
    // A link does not make a path something else.
    let workspace = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(workspace.path().join("public")).unwrap();
    std::fs::write(workspace.path().join("private.txt"), "private").unwrap();
    std::os::unix::fs::symlink("../private.txt", workspace.path().join("public/link")).unwrap();
    let read = &*set["Read"];
    let answer = read.call(call(read, json!({"file_path": "public/link"}), workspace.path())).await;
    assert!(error_text(&answer).contains("Read(public/**)"), "{answer:?}");
}

#[tokio::test]
async fn what_is_wrong_in_the_configuration_is_named() {
    let tool = json!({"description": "", "input": {}, "method": "GET", "url": "http://x"});
    for (config, place) in [
        (json!({"tools": {"Read": tool}}), "tools.Read"),
        (json!({"tools": {"a b": tool}}), "tools.a b"),
        (json!({"tools": {"mcp__a": tool}}), "tools.mcp__a"),
        (json!({"mcp_servers": {"a__b": {"command": ["x"]}}}), "mcp_servers.a__b"),
        (json!({"effects": {"Bash(": "read"}}), "effects"),
    ] {
        let failure = tools(config).unwrap_err();
        assert_eq!(failure.class, FailureClass::Configuration);
        assert!(failure.message.contains(place), "{failure}");
    }
    let tools = tools(json!({})).unwrap();
    let failure = tools.set(&ToolFilter::one("mcp__none__x").unwrap()).await.unwrap_err();
    assert_eq!(failure.class, FailureClass::Configuration);
}

async fn fetch(allow_private: bool, url: &str) -> Result<ToolAnswer, ToolError> {
    let tool = WebFetch::new(allow_private).unwrap();
    tool.call(calling(&tool, json!({"url": url, "prompt": "the title"}))).await
}

#[tokio::test]
async fn a_page_is_fetched_as_markdown() {
    let html = [(header::CONTENT_TYPE, "text/html; charset=utf-8")];
    let base = serve(
        Router::new()
            .route("/page", get(move || async move { (html, "<h1>Title</h1><p>Text</p>") }))
            .route("/moved", get(|| async { Redirect::permanent("/page") }))
            .route("/json", get(|| async { axum::Json(json!({"a": 1})) }))
            .route("/image", get(|| async { ([(header::CONTENT_TYPE, "image/png")], "x") }))
            .route("/large", get(|| async { "x".repeat(10 << 20) }))
            .route("/down", get(|| async { StatusCode::INTERNAL_SERVER_ERROR })),
    )
    .await;
    let page = async |path: &str| fetch(true, &format!("{base}{path}")).await;
    let text = ok_text(&page("/page").await);
    assert!(text.contains("# Title\n\nText") && text.contains("the title"), "{text}");
    assert_eq!(ok_text(&page("/moved").await), text);
    assert!(ok_text(&page("/json").await).contains(r#"{"a":1}"#));
    assert!(error_text(&page("/missing").await).contains("404"));
    assert!(error_text(&page("/image").await).contains("image/png"));
    assert!(ok_text(&page("/large").await).len() <= (1 << 20) + 100);
    let down = page("/down").await;
    assert!(matches!(&down, Err(ToolError::Failed(f)) if f.class == FailureClass::Unavailable), "{down:?}");
}

#[tokio::test]
async fn private_addresses_other_schemes_and_other_hosts_are_not_fetched_from() {
    let base = serve(Router::new().route("/far", get(|| async { Redirect::temporary("http://example.com/x") }))).await;
    let port = base.rsplit_once(':').unwrap().1;
    for host in
        ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "169.254.169.254"]
    {
        let text = error_text(&fetch(false, &format!("http://{host}:{port}/")).await);
        assert!(text.contains("public address"), "{host}: {text}");
    }
    for url in
        ["file:///etc/passwd", "ftp://example.com/", "gopher://x", "http://user:pw@example.com/", "no url", "http://"]
    {
        error_text(&fetch(true, url).await);
    }
    let text = ok_text(&fetch(true, &format!("{base}/far")).await);
    assert!(text.contains("redirects to another host: http://example.com/x"), "{text}");
}
