//! All tools of an installation, and what of them an agent gets.

mod guarded;
mod schema;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use common::clock::{Clock, SystemClock};
use common::config::policy::{Layer, Level};
use common::config::{self, Config, PermissionMode, SandboxPolicy};
use common::failure::{Failure, FailureClass};
use common::id::Digest;
use common::pipeline::model::Agent;
use sandbox::{Abilities, Sandbox};
use serde_json::json;

use super::agent::AGENT;
use super::bash::Bash;
use super::edit::Edit;
use super::glob::Glob;
use super::grep::Grep;
use super::http::HttpTool;
use super::mcp::{McpOptions, McpServers};
use super::read::Read;
use super::rule::{Effects, InvalidRule, Permissions, Rule, Rules, Tier};
use super::search;
use super::web::WebFetch;
use super::write::Write;
use super::{Tool, ToolSet, ToolSpec};
use crate::http::HttpClient;
use guarded::{Guarded, Judge};

pub use schema::validate;

/// The least that an answer of an MCP server may have, in bytes of JSON.
const LEAST_ANSWER: usize = 1 << 20;

/// All tools of an installation. One for each worker process: MCP servers are shared through it.
#[derive(Debug)]
pub struct Tools {
    /// Built-ins and HTTP tools.
    fixed: ToolSet,
    mcp: McpServers,
    effects: Arc<Effects>,
    rules: Arc<Rules>,
    permissions: config::Permissions,
    /// What the organisation says.
    above: Vec<Arc<Tier>>,
    /// Of `permissions` and all above: what approvals are bound to.
    policy: Digest,
    /// Tools of MCP servers that an agent is told of one by one.
    listed: usize,
}

/// What is wanted of all tools: by an agent, or by a `tool` step.
#[derive(Debug, Clone)]
pub struct ToolFilter {
    permissions: Permissions,
    mode: Option<PermissionMode>,
    /// What the team and the pipeline say.
    tiers: Vec<Arc<Tier>>,
    /// MCP servers whose tools are looked at; others are not even started.
    servers: BTreeSet<String>,
}

impl ToolFilter {
    /// What an agent's file says. Servers that it names under `mcpServers` are
    /// allowed as a whole, unless rules under `tools` say more of them. An agent
    /// that names no server in either place gets none.
    ///
    /// # Errors
    /// `configuration` if a rule cannot be read.
    pub fn of_agent(agent: &Agent, mode: Option<PermissionMode>) -> Result<Self, Failure> {
        let wrong =
            |error: InvalidRule| Failure::new(FailureClass::Configuration, format!("agent {}: {error}", agent.name));
        let mut permissions = Permissions::parse(agent.tools.as_deref(), &agent.disallowed_tools).map_err(wrong)?;
        for server in agent.mcp_servers.iter().flatten() {
            let about = |rule: &Rule| rule.mcp_server() == Some(server);
            if !permissions.allow().is_some_and(|rules| rules.iter().any(about)) {
                let rule = Rule::parse(&format!("mcp__{server}")).map_err(wrong)?;
                permissions = permissions.also_allowing(rule);
            }
        }
        let servers = agent.mcp_servers.as_ref().map(|servers| servers.iter().cloned().collect());
        Ok(Self {
            servers: servers.unwrap_or_else(|| servers_named_by(&permissions)),
            permissions,
            mode,
            tiers: Vec::new(),
        })
    }

    /// What these rules allow.
    ///
    /// # Errors
    /// `configuration` if a rule cannot be read.
    pub fn rules(rules: &[&str]) -> Result<Self, Failure> {
        let rules: Vec<String> = rules.iter().map(|rule| (*rule).to_owned()).collect();
        let permissions = Permissions::parse(Some(&rules), &[])
            .map_err(|error| Failure::new(FailureClass::Configuration, error.to_string()))?;
        Ok(Self { servers: servers_named_by(&permissions), permissions, mode: None, tiers: Vec::new() })
    }

    /// The same under what a team and a pipeline say.
    #[must_use]
    pub fn under(mut self, tiers: Vec<Arc<Tier>>) -> Self {
        self.tiers.extend(tiers);
        self
    }

    /// Whether a tool of this name is among what is wanted.
    pub fn offers(&self, tool: &str) -> bool {
        self.permissions.offers(tool)
    }

    /// One tool, by its name: for `tool` steps.
    ///
    /// # Errors
    /// `configuration` if that is no name of a tool.
    pub fn one(name: &str) -> Result<Self, Failure> {
        Self::rules(&[name])
    }
}

fn servers_named_by(permissions: &Permissions) -> BTreeSet<String> {
    permissions.allow().unwrap_or_default().iter().filter_map(Rule::mcp_server).map(str::to_owned).collect()
}

/// Where and how tools run, beyond the configuration.
#[derive(Debug, Clone)]
pub struct ToolOptions {
    /// Where MCP servers run. By default the directory of the process.
    pub directory: PathBuf,
    /// Whether `WebFetch` reaches loopback and private addresses. By default not.
    pub allow_private_fetch: bool,
    /// By which access tokens expire. By default that of the machine.
    pub clock: Arc<dyn Clock>,
}

impl Default for ToolOptions {
    fn default() -> Self {
        Self { directory: PathBuf::from("."), allow_private_fetch: false, clock: Arc::new(SystemClock) }
    }
}

impl Tools {
    /// The tools that a configuration declares, and the built-ins. Starts nothing.
    ///
    /// # Errors
    /// `configuration` or `template`, with the key of `teamster.yaml` that is wrong.
    pub fn new(config: &Config) -> Result<Self, Failure> {
        Self::with_options(config, &ToolOptions::default())
    }

    /// The same with options.
    ///
    /// # Errors
    /// As [`Tools::new`].
    pub fn with_options(config: &Config, options: &ToolOptions) -> Result<Self, Failure> {
        let built_in: [Arc<dyn Tool>; 7] = [
            Arc::new(Read::default()),
            Arc::new(Glob::default()),
            Arc::new(Grep::default()),
            Arc::new(Write::default()),
            Arc::new(Edit::default()),
            Arc::new(Bash::new(confined("sandbox.bash", config.sandbox.bash())?)),
            Arc::new(WebFetch::new(options.allow_private_fetch)?),
        ];
        let mut fixed: ToolSet = built_in.into_iter().map(|tool| (tool.spec().name.clone(), tool)).collect();
        let client = HttpClient::new()?;
        for (name, declared) in &config.tools {
            checked_name("tools", name)?;
            if fixed.contains_key(name) || name == AGENT || is_stand_in(name) {
                return Err(wrong(&format!("tools.{name}: {name} is a built-in tool; choose another name")));
            }
            fixed.insert(name.clone(), Arc::new(HttpTool::new(name, declared, client.clone())?));
        }
        for name in config.mcp_servers.keys() {
            checked_name("mcp_servers", name)?;
        }
        let (effects, rules) = rules(config)?;
        let permissions = config.permissions.clone();
        let above = || config.policy.iter().filter(|layer| layer.level() == Level::Organisation);
        let said: Vec<config::Permissions> = above().map(Layer::permissions).collect();
        let all = if said.is_empty() { json!(permissions) } else { json!([permissions, said]) };
        let policy = Digest::of(all.to_string().as_bytes());
        let above = tiers(above())?;
        let answer = config.limits.tool_output.bytes().saturating_mul(4).max(LEAST_ANSWER);
        let mcp = McpOptions {
            directory: options.directory.clone(),
            sandbox: config.sandbox.clone(),
            answer_limit: answer,
            http: client,
            clock: Arc::clone(&options.clock),
        };
        let mcp = McpServers::new(&config.mcp_servers, &mcp)?;
        let (effects, rules, listed) = (Arc::new(effects), Arc::new(rules), config.limits.mcp_tools);
        Ok(Self { fixed, mcp, effects, rules, permissions, above, policy, listed })
    }

    /// Adds a tool that this program brings along, beside those that ship.
    ///
    /// # Errors
    /// `configuration` if its name is taken, or is none.
    pub fn add(&mut self, tool: Arc<dyn Tool>) -> Result<(), Failure> {
        let name = tool.spec().name.clone();
        checked_name("tools", &name)?;
        if self.fixed.contains_key(&name) || is_stand_in(&name) {
            return Err(wrong(&format!("tools.{name}: there are two tools of this name")));
        }
        self.fixed.insert(name, tool);
        Ok(())
    }

    /// The tools that are wanted. Starts the MCP servers among them. Rules about
    /// tools that the installation does not have are passed over, as files of
    /// other programs name more than we have.
    ///
    /// # Errors
    /// `configuration` if an MCP server is not configured; what kept one from starting.
    pub async fn set(&self, wanted: &ToolFilter) -> Result<ToolSet, Failure> {
        let mut all: Vec<Arc<dyn Tool>> = self.fixed.values().cloned().collect();
        let listed = wanted.servers.iter().map(|server| self.mcp.tools(server));
        for tools in futures::future::join_all(listed).await {
            all.extend(tools?);
        }
        let mode = wanted.mode;
        if mode == Some(PermissionMode::BypassPermissions) && !self.permissions.allow_bypass {
            return Err(wrong("permissions: an agent has the mode bypassPermissions, and `allow_bypass` is not true"));
        }
        let judge = Arc::new(Judge {
            own: wanted.permissions.clone(),
            rules: Arc::clone(&self.rules),
            mode,
            tiers: self.above.iter().chain(&wanted.tiers).map(Arc::clone).collect(),
            effects: Arc::clone(&self.effects),
        });
        let mut set: ToolSet = all
            .into_iter()
            .filter(|tool| judge.policy().offers(&tool.spec().name))
            .map(|tool| {
                let name = tool.spec().name.clone();
                let guarded = Guarded::new(tool, Arc::clone(&judge));
                (name, Arc::new(guarded) as Arc<dyn Tool>)
            })
            .collect();
        // Always at hand: which of them a conversation was told of was decided when it began.
        let of_servers: ToolSet = set
            .iter()
            .filter(|(name, _)| is_of_server(name))
            .map(|(name, tool)| (name.clone(), Arc::clone(tool)))
            .collect();
        if !of_servers.is_empty() {
            set.extend(search::stand_ins(&of_servers).map(|tool| (tool.spec().name.clone(), tool)));
        }
        Ok(set)
    }

    /// What an agent with these tools is told of: tools of MCP servers one by one
    /// while they are few (`limits.mcp_tools`), else the two that find and call them.
    pub fn offered<'a>(&self, set: &'a ToolSet) -> impl Iterator<Item = &'a ToolSpec> + use<'a> {
        let by_search = set.keys().filter(|name| is_of_server(name)).count() > self.listed;
        let told = move |name: &str| if by_search { !is_of_server(name) } else { !is_stand_in(name) };
        set.values().map(|tool| tool.spec()).filter(move |spec| told(&spec.name))
    }

    /// What a person is asked before a call, and who.
    pub fn permissions(&self) -> &config::Permissions {
        &self.permissions
    }

    /// The digest of the permissions in force.
    pub fn policy(&self) -> &Digest {
        &self.policy
    }

    /// The names of all tools that are known without starting MCP servers.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.fixed.keys().map(String::as_str)
    }

    /// Stops all MCP servers; calls in flight are lost, new ones fail.
    pub async fn shutdown(&self) {
        self.mcp.shutdown().await;
    }
}

/// The sandbox of a policy on this machine.
///
/// # Errors
/// `configuration` if it requires what this machine cannot do.
pub fn confined(key: &str, policy: SandboxPolicy) -> Result<Sandbox, Failure> {
    Sandbox::new(policy, Abilities::here()).map_err(|error| wrong(&format!("{key}: {error}")))
}

/// The rules of a configuration, as workers read them.
///
/// # Errors
/// `configuration` for the first that cannot be read.
pub fn rules(config: &Config) -> Result<(Effects, Rules), Failure> {
    let effects = Effects::parse(&config.effects).map_err(|error| wrong(&format!("effects: {error}")))?;
    let rules = Rules::parse(&config.permissions).map_err(|error| wrong(&format!("permissions: {error}")))?;
    if let Some(private) = &config.private_data {
        super::private::rules(&private.reveal.tools)
            .map_err(|error| wrong(&format!("private_data.reveal.tools: {error}")))?;
    }
    Ok((effects, rules))
}

/// The rules of layers of policy, as workers read them.
///
/// # Errors
/// `configuration` for the first that cannot be read, with its file.
pub fn tiers<'a>(layers: impl IntoIterator<Item = &'a Layer>) -> Result<Vec<Arc<Tier>>, Failure> {
    let tier = |layer: &Layer| {
        Tier::parse(&layer.permissions()).map(Arc::new).map_err(|error| {
            Failure::new(FailureClass::Configuration, format!("{}: permissions: {error}", layer.file()))
        })
    };
    layers.into_iter().map(tier).collect()
}

fn is_of_server(tool: &str) -> bool {
    tool.starts_with("mcp__")
}

fn is_stand_in(tool: &str) -> bool {
    tool == search::SEARCH || tool == search::CALL
}

fn wrong(what: &str) -> Failure {
    Failure::new(FailureClass::Configuration, format!("teamster.yaml: {what}"))
}

fn checked_name(key: &str, name: &str) -> Result<(), Failure> {
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
    if plain && (1..=64).contains(&name.len()) && !name.contains("__") && !name.starts_with("mcp_") {
        Ok(())
    } else {
        Err(wrong(&format!(
            "{key}.{name}: a name has 1 to 64 letters, digits, - and single _, and does not begin with mcp_"
        )))
    }
}
