//! Which calls work in a task's working directory: for the others none is made
//! or looked for, so that a task without files costs no call to the file system.

use common::config::Hooks;
use common::pipeline::model::{Agent, Pipeline, Step, StepKind};

use crate::tools::registry::ToolFilter;

/// The tools that work in it.
const TOOLS: [&str; 6] = ["Read", "Write", "Edit", "Glob", "Grep", "Bash"];

/// Whether a tool works in the working directory.
pub(super) fn is_used_by(tool: &str) -> bool {
    TOOLS.contains(&tool)
}

/// Whether a task of this pipeline may have a working directory.
pub(super) fn may_be_used(pipeline: &Pipeline, hooks: &Hooks) -> bool {
    let of_agents = || pipeline.agents.values().any(|agent| agent.hooks.start_programs());
    if hooks.start_programs() || pipeline.hooks.start_programs() || of_agents() {
        return true;
    }
    let by_agent = |agent: &Agent| {
        ToolFilter::of_agent(agent, None).map_or(true, |filter| TOOLS.iter().any(|tool| filter.offers(tool)))
    };
    let by_step = |step: &Step| match &step.kind {
        StepKind::Run(_) => true,
        StepKind::Tool(tool) => is_used_by(&tool.tool),
        StepKind::Agent(step) => pipeline.agents.get(&step.agent).is_none_or(by_agent),
        _ => false,
    };
    pipeline.steps.iter().any(by_step)
}
