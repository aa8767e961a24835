//! Reading `hooks:`: what would not be asked is an error in the operator's
//! file. In an agent's file, events of Claude Code that never come here are a
//! warning, as its other fields are: the file is to work as it is.

use std::collections::BTreeMap;

use super::{HookGroup, HookHandler, Hooks};
use crate::config::SecretOrText;
use crate::diagnostic::{Diagnostics, SourceFile};
use crate::document::{Kind, Node, closest};
use crate::journal::HookEvent;

/// The most hooks of one file.
const MOST: usize = 100;

/// Whose file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Author {
    /// Who runs the installation.
    Operator,
    /// Who wrote an agent, who may be somebody else: no secrets of the installation.
    Agent,
}

/// Reads `hooks:`. What is wrong goes to `out`.
pub(crate) fn read(node: &Node, author: Author, file: &SourceFile, out: &mut Diagnostics) -> Hooks {
    let Kind::Map(events) = &node.kind else {
        out.push(file.error(node.at, format!("`hooks` must be a mapping of events to lists, not {}", node.what())));
        return Hooks::default();
    };
    let mut read = BTreeMap::new();
    for (key, groups) in events {
        let Some(event) = HookEvent::ALL.into_iter().find(|event| event.as_str() == key.text) else {
            let names = HookEvent::ALL.map(HookEvent::as_str);
            let message =
                format!("hooks of the event `{}` are never asked", key.text.chars().take(60).collect::<String>());
            let problem = match author {
                Author::Operator => file.error(key.at, message),
                Author::Agent => file.warning(key.at, message),
            };
            out.push(problem.with_help(match closest(&key.text, &names) {
                Some(name) => format!("did you mean `{name}`?"),
                None => format!("the events are {}", names.join(", ")),
            }));
            continue;
        };
        let Some(groups_read) = groups.read::<Vec<HookGroup>>(file, out) else { continue };
        if let Kind::List(nodes) = &groups.kind {
            for (group, node) in groups_read.iter().zip(nodes) {
                check(event, group, author, node, file, out);
            }
        }
        read.insert(event, groups_read);
    }
    let hooks = Hooks(read);
    if hooks.all().count() > MOST {
        out.push(file.error(node.at, format!("there are more than {MOST} hooks")));
    }
    hooks
}

fn check(event: HookEvent, group: &HookGroup, author: Author, node: &Node, file: &SourceFile, out: &mut Diagnostics) {
    if event == HookEvent::Stop && !group.matcher.is_about_all() {
        let warning =
            file.warning(node.at, "`Stop` has no matcher: these hooks are asked whenever an agent wants to end");
        out.push(warning.with_help("hooks of one agent stand in its own file"));
    }
    if group.hooks.is_empty() {
        out.push(file.warning(node.at, "there is nothing under `hooks` here"));
    }
    let secret = |handler: &HookHandler| match handler {
        HookHandler::Http { headers, .. } => headers.values().any(|value| matches!(value, SecretOrText::Secret(_))),
        HookHandler::Command(_) => false,
    };
    if author == Author::Agent && group.hooks.iter().any(|hook| secret(&hook.handler)) {
        let error = file.error(node.at, "a hook of an agent's file cannot send secrets of the installation");
        out.push(error.with_help("put this hook under `hooks:` in teamster.yaml"));
    }
}
