//! How a step with tools begins: the tools that it may use, the permissions under
//! which they are judged, and for an agent all that its requests share.

use common::config::{PermissionMode, Permissions};
use common::failure::{Failure, FailureClass};
use common::id::StepKey;
use common::journal::{ContextRules, Event, RequestHead, Run};
use common::pipeline::model::{Agent, AgentStep, Pipeline, Step, StepKind};
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::Value;

use super::perform::Done;
use super::{Executor, internal};
use crate::decide::Performed;
use crate::tools::registry::{ToolFilter, tiers};
use crate::tools::{self, ToolSet};

impl Executor {
    pub(super) fn prepare<'a>(
        &'a self,
        key: StepKey,
        start: bool,
        run: &Run,
        pipeline: &'a Pipeline,
    ) -> BoxFuture<'a, Done> {
        let filter = self.filter(pipeline, run, &key);
        let opening = start.then(|| self.opening(&key, run, pipeline)).transpose();
        async move {
            let looked_up = async {
                let opening = opening?;
                let tools = self.outside.tools.set(&filter?).await?;
                let event = opening.map(|opening| self.start_agent(key, opening, &tools)).transpose()?;
                Ok((event, tools))
            };
            match looked_up.await {
                Ok((event, tools)) => Done { tools: Some(tools), ..Done::of(Performed::Prepared(Ok(event))) },
                Err(error) => Done::of(Performed::Prepared(Err(error))),
            }
        }
        .boxed()
    }

    /// Which tools a step or one of its agents may use.
    fn filter(&self, pipeline: &Pipeline, run: &Run, key: &StepKey) -> Result<ToolFilter, Failure> {
        if let Some(StepKind::Tool(tool)) = pipeline.step(&key.step).map(|step| &step.kind) {
            return Ok(ToolFilter::one(&tool.tool)?.under(tiers(&pipeline.policy)?));
        }
        let mode = self.mode(pipeline, run, key);
        if mode == Some(PermissionMode::BypassPermissions) && !self.permissions(pipeline).allow_bypass {
            let message = "permissions: an agent has the mode bypassPermissions, and `allow_bypass` is not true";
            return Err(Failure::new(FailureClass::Configuration, message));
        }
        let filter = ToolFilter::of_agent(Role::of(pipeline, run, key)?.agent, mode)?;
        Ok(filter.under(tiers(&pipeline.policy)?))
    }

    /// What holds for the calls of a pipeline: who is asked, and until when.
    pub(super) fn permissions(&self, pipeline: &Pipeline) -> Permissions {
        let above = self.outside.tools.permissions().clone();
        pipeline.policy.iter().fold(above, |above, layer| layer.tighten(&above))
    }

    /// The mode in which the calls of an agent are judged.
    pub(super) fn mode(&self, pipeline: &Pipeline, run: &Run, key: &StepKey) -> Option<PermissionMode> {
        // The nearest that says how it is to be judged, up the line of callers.
        let mut line = std::iter::successors(Some(key.clone()), StepKey::caller);
        let own = line.find_map(|key| Role::of(pipeline, run, &key).ok()?.agent.permission_mode);
        own.or(self.outside.tools.permissions().mode)
    }

    /// Who begins to talk, and what it is told.
    fn opening<'a>(&self, key: &StepKey, run: &Run, pipeline: &'a Pipeline) -> Result<Opening<'a>, Failure> {
        let role = Role::of(pipeline, run, key)?;
        let own_model = role.agent.model.clone();
        let (prompt, output_schema, model) =
            if let Some(subagent) = run.step(key).and_then(|known| known.subagent.as_ref()) {
                // Its file says which model it has, or it has that of its caller.
                let caller = key.caller().and_then(|caller| run.step(&caller)?.conversation.as_ref());
                let model = own_model.or_else(|| caller.map(|caller| caller.head.alias.clone()));
                (subagent.prompt.clone(), None, model)
            } else {
                let scope = self.scope_of(run, pipeline, key);
                let prompt = role.agent_step.prompt.render_text(&scope)?;
                let schema = role.step.output.as_ref().map(|schema| schema.schema.clone());
                let model = role.agent_step.model.as_ref().map(|model| model.render_text(&scope)).transpose()?;
                (prompt, schema, model.filter(|name| !name.is_empty()).or(own_model))
            };
        Ok(Opening { role, prompt, output_schema, model, callees: callees(pipeline, &role, key) })
    }

    /// Fixes what all requests of an agent share.
    fn start_agent(&self, step: StepKey, opening: Opening<'_>, tools: &ToolSet) -> Result<Event, Failure> {
        let Opening { role, prompt, output_schema, model, callees } = opening;
        let alias = model.as_deref().filter(|alias| *alias != "inherit");
        let (fallback, effort) = (role.agent_step.fallback.as_ref(), role.agent.effort.as_deref());
        let (model, fallback) = self.outside.models.choose(alias, fallback, effort)?;
        // What goes out in a batch has nobody beside it to call tools.
        let single = role.agent_step.batch.is_some() && !step.is_subagent();
        let specs = self.outside.tools.offered(tools).filter(|_| !single).map(tools::ToolSpec::to_json);
        let callees = if single { &[][..] } else { &callees[..] };
        let head = RequestHead {
            alias: model.alias,
            provider: model.provider,
            model: model.model,
            max_tokens: role.agent_step.limits.max_tokens,
            system: self.told(role.agent),
            tools: tools::agent::spec(callees).iter().map(tools::ToolSpec::to_json).chain(specs).collect(),
            output_schema,
            options: model.options,
            settings: model.settings,
            fallback,
            context: ContextRules {
                compaction: Some(role.agent_step.compaction.unwrap_or(self.config.compaction)),
                shown: Some(self.config.limits.tool_shown.bytes()),
            },
        };
        Ok(Event::AgentStarted { step, head: Box::new(head), prompt })
    }
}

/// Who an agent is, and for which step it works.
#[derive(Debug, Clone, Copy)]
struct Role<'a> {
    step: &'a Step,
    agent_step: &'a AgentStep,
    /// Its name in the definition.
    name: &'a str,
    agent: &'a Agent,
}

impl<'a> Role<'a> {
    fn of(pipeline: &'a Pipeline, run: &Run, key: &StepKey) -> Result<Self, Failure> {
        let step = pipeline.step(&key.step).ok_or_else(|| internal(format!("there is no step {key}")))?;
        let StepKind::Agent(agent_step) = &step.kind else {
            return Err(internal(format!("step {key} has no agent")));
        };
        let name = run.agent(key).unwrap_or(&agent_step.agent);
        let (name, agent) = pipeline
            .agents
            .get_key_value(name)
            .ok_or_else(|| internal(format!("agent {name} is not in the definition")))?;
        Ok(Self { step, agent_step, name, agent })
    }
}

/// How an agent begins.
struct Opening<'a> {
    role: Role<'a>,
    prompt: String,
    output_schema: Option<Value>,
    model: Option<String>,
    callees: Vec<(&'a str, &'a Agent)>,
}

/// The agents that an agent may call, where it is.
fn callees<'a>(pipeline: &'a Pipeline, role: &Role<'a>, key: &StepKey) -> Vec<(&'a str, &'a Agent)> {
    if key.lineage.len() >= role.agent_step.limits.depth as usize {
        return Vec::new();
    }
    let names = role.agent.calls.of(pipeline.agents.keys().map(String::as_str), role.name);
    names.into_iter().filter_map(|name| Some((name, pipeline.agents.get(name)?))).collect()
}
