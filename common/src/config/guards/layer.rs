//! Guards in layers of policy: what an organisation, a team or a pipeline says
//! of them. A lower layer adds guards, or makes the end of one stricter.

use serde::Deserialize;
use serde_json::Value;

use super::{Check, Guard, Guards};
use crate::config::read::field;
use crate::diagnostic::{Diagnostics, SourceFile};
use crate::document::{Node, Table};
use crate::journal::GuardThen;

/// What a team or a pipeline says of a guard that stands above it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tightened {
    #[serde(default, rename = "then")]
    _then: Option<GuardThen>,
}

/// Whether a value only tightens a guard that stands above it.
pub(crate) fn only_tightens(value: &Value) -> bool {
    value.as_object().is_some_and(|fields| fields.keys().all(|key| key == "then" || key == "required"))
}

/// Reads `guards:` of a layer that is no project: they go where the project's files are not, so that all they check by
/// stands in them. `may_tighten`: guards above it can be named.
pub(crate) fn read_layer(node: &Node, may_tighten: bool, file: &SourceFile, out: &mut Diagnostics) {
    let Some(table) = Table::of(node, file, "`guards`", out) else { return };
    for (_, node) in table.rows() {
        if may_tighten && only_tightens(&node.to_json()) {
            let _: Option<Tightened> = node.read(file, out);
            continue;
        }
        let Some(guard) = node.read::<Guard>(file, out) else { continue };
        let elsewhere = match &guard.check {
            Check::SchemaFile(_) => Some(("schema", "write the schema itself")),
            Check::JudgeFile(_) => Some(("judge", "write `judge: { prompt: …, model: … }`")),
            Check::Judge(_) | Check::KnownInjections | Check::Patterns(_) | Check::Schema(_) => None,
        };
        if let Some((key, help)) = elsewhere {
            let error = file.error(field(node, key), "a guard of this layer cannot be in files of a project");
            out.push(error.with_help(help));
        }
    }
}

/// The guards of everything above with those of a team or a pipeline under them: theirs hold for all of its agents.
pub(crate) fn under<'v>(above: &Guards, said: impl Iterator<Item = (&'v str, &'v Value)>) -> Guards {
    let mut all = above.clone();
    for (name, value) in said {
        if let Some(known) = all.get_mut(name) {
            let then = value.get("then").and_then(|then| GuardThen::deserialize(then).ok());
            known.then = known.then.max(then.unwrap_or(known.then));
            known.required = true;
        } else if let Ok(guard) = Guard::deserialize(value) {
            all.insert(name.to_owned(), Guard { required: true, ..guard });
        }
    }
    all
}
