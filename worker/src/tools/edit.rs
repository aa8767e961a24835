//! `Edit`: one text of a file replaced by another.
//!
//! An edit whose receipt was lost may have happened. Repeated, it must neither
//! be made twice nor fail because it was made before. Whether that can be told
//! from the file alone depends on the two texts: if the new one cannot, in any
//! surroundings, make up the old one again, then a file without the old text
//! and with the new one is a file that has been edited. Such edits are `keyed`,
//! all others `once`.

use std::io::Read as _;

use async_trait::async_trait;
use common::journal::Effect;
use serde::Deserialize;
use serde_json::{Value, json};

use super::blocking;
use super::workspace::{Refusal, Workspace};
use super::{Tool, ToolAnswer, ToolCall, ToolError, ToolSpec, arguments};

/// The largest file that is edited, in bytes.
const FILE_LIMIT: u64 = 16 << 20;

/// Replaces a text in a file of the working directory.
#[derive(Debug)]
pub struct Edit {
    spec: ToolSpec,
}

#[derive(Debug, Deserialize)]
struct Arguments {
    file_path: String,
    old_string: String,
    new_string: String,
    #[serde(default)]
    replace_all: bool,
}

/// What an edit makes of a text.
#[derive(Debug, PartialEq, Eq)]
enum Edited {
    /// A new text, with so many places replaced.
    Changed { text: String, places: usize },
    /// The old text is not there, but the new one is: the edit was made before.
    Already,
    /// It cannot be made.
    Refused(String),
}

impl Default for Edit {
    fn default() -> Self {
        Self {
            spec: ToolSpec {
                name: "Edit".to_owned(),
                description: "Replaces `old_string` in a file of the working directory by `new_string`. `old_string` \
                              must stand in the file exactly once, white space included (without the line numbers that \
                              Read shows), unless `replace_all` is set."
                    .to_owned(),
                input_schema: json!({
                    "type": "object",
                    "properties": {
                        "file_path": {"type": "string", "description": "The file, relative to the working directory"},
                        "old_string": {"type": "string", "minLength": 1, "description": "The text to replace"},
                        "new_string": {"type": "string", "description": "The text to put in its place"},
                        "replace_all": {"type": "boolean", "description": "Replace every occurrence", "default": false}
                    },
                    "required": ["file_path", "old_string", "new_string"],
                    "additionalProperties": false
                }),
            },
        }
    }
}

#[async_trait]
impl Tool for Edit {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn effect(&self, arguments: &Value) -> Effect {
        let text = |name: &str| arguments.get(name).and_then(Value::as_str).unwrap_or_default();
        if is_recognisable(text("old_string"), text("new_string")) { Effect::Keyed } else { Effect::Once }
    }

    async fn call(&self, call: ToolCall) -> Result<ToolAnswer, ToolError> {
        let arguments: Arguments = arguments(&call)?;
        let context = call.context;
        blocking::run(context.timeout, move |wanted| {
            let path = &arguments.file_path;
            let edited = Workspace::open(&context.workspace).and_then(|workspace| {
                let relative = workspace.relative(path)?;
                let before = match contents(&workspace, &relative)? {
                    Ok(before) => before,
                    Err(why) => return Ok(Ok(ToolAnswer::error(format!("{path} {why}")))),
                };
                let (text, places) = match edit(&before, &arguments) {
                    Edited::Changed { text, places } => (text, places),
                    Edited::Already => {
                        return Ok(Ok(ToolAnswer::text(format!("{path} already has the new text; nothing to do."))));
                    }
                    Edited::Refused(why) => return Ok(Ok(ToolAnswer::error(format!("{path}: {why}")))),
                };
                let replaced = workspace.replace_file(&relative, text.as_bytes(), &call.key, || wanted.check())?;
                Ok(replaced.map(|()| ToolAnswer::text(format!("Replaced {places} place(s) in {path}."))))
            });
            edited.unwrap_or_else(|refusal| Ok(ToolAnswer::error(refusal.to_string())))
        })
        .await
    }
}

fn contents(workspace: &Workspace, path: &std::path::Path) -> Result<Result<String, &'static str>, Refusal> {
    let mut bytes = Vec::new();
    let file = workspace.open_file(path)?;
    file.take(FILE_LIMIT + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Refusal::Io(super::workspace::show(path), error))?;
    if bytes.len() as u64 > FILE_LIMIT {
        return Ok(Err("is larger than 16 MiB, which this tool does not edit"));
    }
    Ok(String::from_utf8(bytes).map_err(|_| "is not UTF-8 text, which is all that this tool edits"))
}

fn edit(text: &str, arguments: &Arguments) -> Edited {
    let Arguments { old_string: old, new_string: new, replace_all, .. } = arguments;
    if old.is_empty() {
        return Edited::Refused("old_string is empty; to make a file, use Write".to_owned());
    }
    if old == new {
        return Edited::Refused("old_string and new_string are the same".to_owned());
    }
    match text.matches(old.as_str()).count() {
        0 if is_recognisable(old, new) && text.contains(new.as_str()) => Edited::Already,
        0 => Edited::Refused("old_string was not found; read the file again and copy the text exactly".to_owned()),
        1 => Edited::Changed { text: text.replacen(old.as_str(), new, 1), places: 1 },
        places if *replace_all => Edited::Changed { text: text.replace(old.as_str(), new), places },
        places => Edited::Refused(format!(
            "old_string was found {places} times; add surrounding lines until it is unique, or set replace_all"
        )),
    }
}

/// Whether an edit that was made can be told from the file: no occurrence of
/// `old` can overlap the `new` that was put in, so that afterwards there is none.
fn is_recognisable(old: &str, new: &str) -> bool {
    let overlaps = |end_of: &str, start_of: &str| {
        (1..=end_of.len().min(start_of.len()))
            .any(|n| end_of.as_bytes()[end_of.len() - n..] == start_of.as_bytes()[..n])
    };
    // Quadratic in the shorter text: long ones are not worth the look.
    old.len().min(new.len()) <= 20_000
        && !old.is_empty()
        && !new.is_empty()
        && !new.contains(old)
        && !old.contains(new)
        && !overlaps(old, new)
        && !overlaps(new, old)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn arguments(old: &str, new: &str, replace_all: bool) -> Arguments {
        Arguments { file_path: "f".into(), old_string: old.into(), new_string: new.into(), replace_all }
    }

    #[test]
    fn a_text_that_is_there_once_is_replaced() {
        let edited = edit("let x = 1;\nlet y = 2;\n", &arguments("x = 1", "x = 3", false));
        assert_eq!(edited, Edited::Changed { text: "let x = 3;\nlet y = 2;\n".into(), places: 1 });
    }

    #[test]
    fn a_text_that_is_there_twice_is_replaced_only_on_demand() {
        assert!(matches!(edit("a a", &arguments("a", "b", false)), Edited::Refused(why) if why.contains("2 times")));
        assert_eq!(edit("a a", &arguments("a", "b", true)), Edited::Changed { text: "b b".into(), places: 2 });
    }

    #[test]
    fn what_cannot_be_told_apart_is_once() {
        for (old, new, why) in [
            ("foo", "foo bar", "the new text holds the old one"),
            ("foo bar", "foo", "the old text holds the new one"),
            ("foo", "", "nothing is left to see"),
            ("ab", "bc", "an `a` before it makes the old text again"),
        ] {
            assert!(!is_recognisable(old, new), "{why}");
        }
        assert!(is_recognisable("let x = 1;\n", "const X = 1;\n"));
    }

    proptest! {
        #[test]
        fn a_recognisable_edit_that_is_repeated_changes_nothing(
            text in "[abc]{0,24}", old in "[abc]{1,4}", new in "[abcd]{0,4}", replace_all: bool,
        ) {
            let arguments = arguments(&old, &new, replace_all);
            if is_recognisable(&old, &new)
                && let Edited::Changed { text: after, .. } = edit(&text, &arguments)
            {
                prop_assert_eq!(edit(&after, &arguments), Edited::Already);
            }
        }
    }
}
