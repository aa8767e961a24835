//! Reading `teamster.yaml`: every problem in its place.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;

use super::hooks::{self, Author};
use super::mcp::check_server;
use super::policy::{self, Layer};
use super::{
    Audit, Config, Guard, Hooks, HttpTool, Model, Permissions, Provider, ProviderKind, RateLimit, Sandbox,
    SandboxRules, SharedBudget, Size, Webhook,
};
use crate::diagnostic::{Diagnostics, Place, SourceFile};
use crate::document::{Kind, Node, Table, closest};
use crate::journal::{Compaction, PublicKey};
use crate::store::BlobPlace;

/// Who can send webhooks.
const SENDERS: [&str; 2] = ["github", "hmac"];
/// Methods of HTTP tools.
const METHODS: [&str; 5] = ["GET", "POST", "PUT", "PATCH", "DELETE"];
/// The most entries of one section.
const ENTRY_LIMIT: usize = 1_000;

impl Config {
    /// Reads `teamster.yaml`. Every problem goes to `out`; with an error among
    /// them there is no configuration.
    pub(crate) fn parse(file: &SourceFile, organisation: Vec<(Layer, Hooks)>, out: &mut Diagnostics) -> Option<Self> {
        let mut node = match Node::parse(file) {
            Ok(Node { kind: Kind::Null, at }) => Node { kind: Kind::Map(Vec::new()), at },
            Ok(node) => node,
            Err(error) => {
                out.extend(error);
                return None;
            }
        };
        let before = out.errors();
        let (mut policy, above): (Vec<Layer>, Vec<Hooks>) = organisation.into_iter().unzip();
        let above = above.into_iter().fold(Hooks::default(), |above, own| own.under(above));
        let bounded = !policy.is_empty();
        policy.extend(Some(policy::project(&node, file)).filter(|own| !own.settings().is_empty()));
        if bounded {
            let merged = policy::merge(&policy.iter().collect::<Vec<_>>(), &policy::defaults());
            for lift in &merged.lifts {
                out.push(lift.problem(file));
            }
            policy::patch(&mut node, &merged);
        }
        let mut table = Table::of(&node, file, "teamster.yaml", out)?;
        let models = table.get("models");
        let default_model = table.get("default_model");
        let rate_limits = table.get("rate_limits");
        let config = Self {
            store: table.read("store", out),
            broker: table.read("broker", out),
            env: table.get("env").map(|node| environment(node, file, out)).unwrap_or_default(),
            webhooks: entries(table.get("webhooks"), "webhooks", file, out, check_webhook),
            default_model: default_model.and_then(|node| node.read(file, out)),
            models: entries(models, "models", file, out, check_model),
            providers: entries(table.get("providers"), "providers", file, out, check_provider),
            mcp_servers: entries(table.get("mcp_servers"), "mcp_servers", file, out, check_server),
            tools: entries(table.get("tools"), "tools", file, out, check_tool),
            effects: table.read_or("effects", BTreeMap::new(), out),
            permissions: table.get("permissions").map(|node| permissions(node, file, out)).unwrap_or_default(),
            compaction: table.get("compaction").map(|node| compaction(node, file, out)).unwrap_or_default(),
            budgets: entries(table.get("budgets"), "budgets", file, out, check_budget),
            rate_limits: entries(rate_limits, "rate_limits", file, out, check_rate_limit),
            hooks: table
                .get("hooks")
                .map(|node| hooks::read(node, Author::Operator, file, out))
                .unwrap_or_default()
                .under(above),
            guards: entries(table.get("guards"), "guards", file, out, |_, _: &Guard, _, _, _| {}),
            private_data: table.get("private_data").and_then(|node| super::private::read(node, file, out)),
            limits: table.read("limits", out).unwrap_or_default(),
            blobs: table.get("blobs").map(|node| blobs(node, file, out)).unwrap_or_default(),
            retention: table.read("retention", out).unwrap_or_default(),
            sessions: table.read("sessions", out).unwrap_or_default(),
            worker: table.get("worker").map(|node| worker(node, file, out)).unwrap_or_default(),
            sandbox: table.get("sandbox").map(|node| sandbox(node, file, out)).unwrap_or_default(),
            audit: table.get("audit").map(|node| audit(node, file, out)).unwrap_or_default(),
            api: table.read("api", out).unwrap_or_default(),
            policy,
        };
        table.finish("teamster.yaml", out);
        config.check_models(models, default_model, file, out);
        config.check_rate_limits(rate_limits, file, out);
        (out.errors() == before).then_some(config)
    }

    /// Models name providers that are there, and the default is a model.
    fn check_models(&self, models: Option<&Node>, default: Option<&Node>, file: &SourceFile, out: &mut Diagnostics) {
        if let (Some(node), Some(name)) = (default, &self.default_model)
            && !self.knows_model(name)
        {
            let error = file.error(node.at, format!("there is no model `{name}`"));
            out.push(error.with_help("add it under `models:`"));
        }
        let Some(Kind::Map(entries)) = models.map(|node| &node.kind) else { return };
        for (key, node) in entries {
            let Some(model) = self.models.get(&key.text) else { continue };
            self.check_fallback(&key.text, model, node, file, out);
            if self.provider_kind(&model.provider).is_some() {
                continue;
            }
            let at = field(node, "provider").unwrap_or(key.at);
            let mut known: Vec<&str> = self.providers.keys().map(String::as_str).collect();
            known.extend(["anthropic", "openai", "rehearsal"]);
            let error = file.error(at, format!("there is no provider `{}`", model.provider));
            out.push(match closest(&model.provider, &known) {
                Some(name) => error.with_help(format!("did you mean `{name}`?")),
                None => error.with_help("add it under `providers:`, with the `kind` of wire that it speaks"),
            });
        }
    }

    /// Rate limits name models and providers that are there.
    fn check_rate_limits(&self, node: Option<&Node>, file: &SourceFile, out: &mut Diagnostics) {
        let Some(Kind::Map(entries)) = node.map(|node| &node.kind) else { return };
        for (key, node) in entries {
            let Some(limit) = self.rate_limits.get(&key.text) else { continue };
            if let Some(model) = limit.model.as_ref().filter(|model| !self.knows_model(model)) {
                let error = file.error(field(node, "model").unwrap_or(key.at), format!("there is no model `{model}`"));
                out.push(error.with_help("add it under `models:`"));
            }
            if let Some(name) = limit.provider.as_ref().filter(|name| self.provider_kind(name).is_none()) {
                let at = field(node, "provider").unwrap_or(key.at);
                out.push(file.error(at, format!("there is no provider `{name}`")));
            }
        }
    }
}

impl Config {
    /// Fallbacks are models, and not the model itself.
    fn check_fallback(&self, name: &str, model: &Model, node: &Node, file: &SourceFile, out: &mut Diagnostics) {
        let at = field(node, "fallback").unwrap_or(node.at);
        for other in model.fallback.iter().flat_map(|fallback| &fallback.models) {
            if other == name {
                out.push(file.error(at, format!("`{name}` cannot stand in for itself")));
            } else if !self.knows_model(other) {
                let error = file.error(at, format!("there is no model `{other}`"));
                out.push(match closest(other, &self.model_names()) {
                    Some(name) => error.with_help(format!("did you mean `{name}`?")),
                    None => error.with_help("add it under `models:`"),
                });
            }
        }
    }
}

fn permissions(node: &Node, file: &SourceFile, out: &mut Diagnostics) -> Permissions {
    let permissions: Permissions = node.read(file, out).unwrap_or_default();
    let approvers = permissions.approvers.len();
    if !(1..=10).contains(&permissions.votes) {
        let at = field(node, "votes").unwrap_or(node.at);
        out.push(file.error(at, "`votes` is from 1 to 10"));
    } else if approvers > 0 && (permissions.votes as usize) > approvers {
        let at = field(node, "votes").unwrap_or(node.at);
        out.push(file.error(at, format!("{} people must approve, and only {approvers} may", permissions.votes)));
    }
    permissions
}

/// The entries of a section, each read and checked by itself.
fn entries<T: DeserializeOwned>(
    node: Option<&Node>,
    section: &str,
    file: &SourceFile,
    out: &mut Diagnostics,
    check: fn(&str, &T, &Node, &SourceFile, &mut Diagnostics),
) -> BTreeMap<String, T> {
    let Some(node) = node else { return BTreeMap::new() };
    let Some(table) = Table::of(node, file, &format!("`{section}`"), out) else { return BTreeMap::new() };
    if table.rows().len() > ENTRY_LIMIT {
        out.push(file.error(node.at, format!("`{section}` has more than {ENTRY_LIMIT} entries")));
        return BTreeMap::new();
    }
    let mut entries = BTreeMap::new();
    for (key, node) in table.rows() {
        let plain = key.text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if !plain || !(1..=64).contains(&key.text.len()) {
            let error = file.error(key.at, "this is no name");
            out.push(error.with_help("use 1 to 64 letters, digits, '-', '_' or '.'"));
        }
        if let Some(entry) = node.read::<T>(file, out) {
            check(&key.text, &entry, node, file, out);
            entries.insert(key.text.clone(), entry);
        }
    }
    entries
}

/// The value of a key.
pub(super) fn value<'n>(node: &'n Node, name: &str) -> Option<&'n Node> {
    let Kind::Map(fields) = &node.kind else { return None };
    fields.iter().find(|(key, _)| key.text == name).map(|(_, node)| node)
}

/// The place of the value of a key.
pub(super) fn field(node: &Node, name: &str) -> Option<Place> {
    value(node, name).map(|node| node.at)
}

fn environment(node: &Node, file: &SourceFile, out: &mut Diagnostics) -> Vec<String> {
    let names: Vec<String> = node.read(file, out).unwrap_or_default();
    if let Kind::List(items) = &node.kind {
        for item in items {
            let name = item.as_text().unwrap_or_default();
            let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            if !plain || name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
                let error = file.error(item.at, "this is no name of an environment variable");
                out.push(error.with_help("list names only, such as CRM_URL; the values stay in the environment"));
            }
        }
    }
    names
}

fn check_webhook(_: &str, webhook: &Webhook, node: &Node, file: &SourceFile, out: &mut Diagnostics) {
    if !SENDERS.contains(&webhook.sender.as_str()) {
        let at = field(node, "sender").unwrap_or(node.at);
        let error = file.error(at, format!("there is no sender `{}`", webhook.sender));
        out.push(error.with_help(format!("use {}; `hmac` serves all that sign the body", SENDERS.join(" or "))));
    }
    if (webhook.sender == "hmac") != webhook.hmac.is_some() {
        let message = if webhook.hmac.is_some() {
            "`hmac` is for the sender `hmac`"
        } else {
            "the sender `hmac` needs the key `hmac`, with the `header` that carries the signature"
        };
        out.push(file.error(field(node, "hmac").unwrap_or(node.at), message));
    }
    if webhook.secret.as_slice().is_empty() {
        out.push(file.error(field(node, "secret").unwrap_or(node.at), "a webhook needs a secret"));
    }
}

fn check_model(_: &str, model: &Model, node: &Node, file: &SourceFile, out: &mut Diagnostics) {
    if let Some(Err(why)) = model.fallback.as_ref().map(super::Fallback::check) {
        out.push(file.error(field(node, "fallback").unwrap_or(node.at), why));
    }
    if model.context_window.is_some_and(|tokens| tokens < 1_000) {
        let at = field(node, "context_window").unwrap_or(node.at);
        out.push(file.error(at, "`context_window` must be at least 1000 tokens"));
    }
    let Some(price) = &model.price else { return };
    let all = [Some(price.input), Some(price.output), price.cache_read, price.cache_write];
    if all.into_iter().flatten().any(|dollars| !dollars.is_finite() || dollars < 0.0) {
        out.push(file.error(field(node, "price").unwrap_or(node.at), "a price must not be below nothing"));
    }
}

fn check_provider(name: &str, provider: &Provider, node: &Node, file: &SourceFile, out: &mut Diagnostics) {
    if provider.kind.is_none() && ProviderKind::of_name(name).is_none() {
        let error = file.error(node.at, format!("the provider `{name}` needs a `kind`: the wire that it speaks"));
        out.push(error.with_help("add `kind: anthropic` or `kind: rehearsal`"));
    }
    if let Some(url) = &provider.base_url
        && !(url.starts_with("https://") || url.starts_with("http://"))
    {
        let at = field(node, "base_url").unwrap_or(node.at);
        out.push(file.error(at, "`base_url` must start with https:// or http://"));
    }
    let kind = provider.kind.or_else(|| ProviderKind::of_name(name));
    if provider.batches != super::Batches::default() && kind.is_some_and(|kind| !kind.has_batches()) {
        let at = field(node, "batches").unwrap_or(node.at);
        out.push(file.warning(at, "`batches` means nothing here: a provider of this kind takes none"));
    }
    if let Some((key, why)) = provider.batches.fault() {
        let at = value(node, "batches").and_then(|batches| field(batches, key));
        out.push(file.error(at.unwrap_or(node.at), why));
    }
}

fn check_budget(_: &str, budget: &SharedBudget, node: &Node, file: &SourceFile, out: &mut Diagnostics) {
    if let Some(fault) = budget.fault() {
        out.push(file.error(node.at, fault));
    }
}

fn check_rate_limit(_: &str, limit: &RateLimit, node: &Node, file: &SourceFile, out: &mut Diagnostics) {
    if let Some(fault) = limit.fault() {
        out.push(file.error(node.at, fault));
    }
}

fn check_tool(name: &str, tool: &HttpTool, node: &Node, file: &SourceFile, out: &mut Diagnostics) {
    let place = |name: &str| field(node, name).unwrap_or(node.at);
    if !METHODS.contains(&tool.method.as_str()) {
        out.push(file.error(place("method"), format!("{:?} is no method; use {}", tool.method, METHODS.join(", "))));
    }
    if name.starts_with("mcp__") {
        out.push(file.error(node.at, "names that start with `mcp__` are for the tools of MCP servers"));
    }
    if !tool.url.starts_with("https://") && !tool.url.starts_with("http://") && !tool.url.starts_with("{{") {
        out.push(file.error(place("url"), "`url` must start with https:// or http://"));
    }
    if !tool.input.is_object() {
        out.push(file.error(place("input"), "`input` must be the JSON Schema of the arguments: a mapping"));
    } else if let Err(error) = jsonschema::options().build(&tool.input) {
        out.push(file.error(place("input"), format!("the JSON Schema is not valid: {error}")));
    }
}

fn compaction(node: &Node, file: &SourceFile, out: &mut Diagnostics) -> Compaction {
    let compaction: Compaction = node.read(file, out).unwrap_or_default();
    if let Err(why) = compaction.check() {
        out.push(file.error(node.at, why));
    }
    compaction
}

fn worker(node: &Node, file: &SourceFile, out: &mut Diagnostics) -> super::Worker {
    let worker: super::Worker = node.read(file, out).unwrap_or_default();
    if !(1..=10_000).contains(&worker.slots) {
        out.push(file.error(field(node, "slots").unwrap_or(node.at), "`slots` must be 1 to 10000"));
    }
    if worker.lease.get().as_millis() < 1_000 {
        out.push(file.error(field(node, "lease").unwrap_or(node.at), "`lease` must be at least 1s"));
    }
    worker
}

fn blobs(node: &Node, file: &SourceFile, out: &mut Diagnostics) -> super::Blobs {
    let blobs: super::Blobs = node.read(file, out).unwrap_or_default();
    let place = |name: &str| field(node, name).unwrap_or(node.at);
    if blobs.threshold.0 < 1 << 10 {
        out.push(file.error(
            place("threshold"),
            "`threshold` must be at least 1KiB: small values are read faster where they are",
        ));
    }
    if let Some(endpoint) = &blobs.endpoint {
        if !endpoint.starts_with("https://") && !endpoint.starts_with("http://") {
            out.push(file.error(place("endpoint"), "`endpoint` must start with https:// or http://"));
        }
        if !matches!(blobs.place, BlobPlace::Bucket { .. }) {
            out.push(file.error(place("endpoint"), "`endpoint` is for a `place` that begins with s3://"));
        }
    }
    blobs
}

fn audit(node: &Node, file: &SourceFile, out: &mut Diagnostics) -> Audit {
    let audit: Audit = node.read(file, out).unwrap_or_default();
    for key in &audit.public_keys {
        if let Err(error) = key.parse::<PublicKey>() {
            out.push(file.error(field(node, "public_keys").unwrap_or(node.at), format!("`public_keys`: {error}")));
        }
    }
    audit
}

fn sandbox(node: &Node, file: &SourceFile, out: &mut Diagnostics) -> Sandbox {
    let sandbox: Sandbox = node.read(file, out).unwrap_or_default();
    for (kind, rules) in [("bash", &sandbox.bash), ("run", &sandbox.run), ("mcp", &sandbox.mcp)] {
        check_sandbox(rules, value(node, kind), file, out);
    }
    sandbox
}

/// Refuses limits below which no program starts at all.
pub(super) fn check_sandbox(rules: &SandboxRules, node: Option<&Node>, file: &SourceFile, out: &mut Diagnostics) {
    let Some(node) = node else { return };
    let too_small = [
        ("memory", rules.memory.is_some_and(|size| size < Size(16 << 20)), "16MiB"),
        ("processes", rules.processes == Some(0), "1"),
        ("cpu", rules.cpu.is_some_and(|span| span.get().as_secs() < 1), "1s"),
        ("file_size", rules.file_size.is_some_and(|size| size < Size(4 << 10)), "4KiB"),
        ("open_files", rules.open_files.is_some_and(|files| files < 16), "16"),
    ];
    for (key, _, least) in too_small.into_iter().filter(|(_, small, _)| *small) {
        out.push(file.error(field(node, key).unwrap_or(node.at), format!("`{key}` must be at least {least}")));
    }
}
