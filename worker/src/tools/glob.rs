//! `Glob`: files by their names.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::SystemTime;

use async_trait::async_trait;
use common::journal::Effect;
use globset::{GlobBuilder, GlobMatcher};
use serde::Deserialize;
use serde_json::{Value, json};

use super::blocking::{self, Unwanted, Wanted};
use super::walk::{Next, Walked, walk};
use super::workspace::{Refusal, Workspace, show};
use super::{Tool, ToolAnswer, ToolCall, ToolError, ToolSpec, arguments};

/// Files that are listed; the most recently changed ones win.
const FILES: usize = 1000;
/// The longest pattern, in bytes.
const PATTERN: usize = 1024;

/// Finds files of the working directory by a pattern, the newest first.
#[derive(Debug)]
pub struct Glob {
    spec: ToolSpec,
}

#[derive(Debug, Deserialize)]
struct Arguments {
    pattern: String,
    path: Option<String>,
}

impl Default for Glob {
    fn default() -> Self {
        Self {
            spec: ToolSpec {
                name: "Glob".to_owned(),
                description: format!(
                    "Finds files by a pattern such as `**/*.rs` or `src/*.{{ts,tsx}}`, the most recently changed first, \
                     at most {FILES}. Symbolic links are not followed."
                ),
                input_schema: json!({
                    "type": "object",
                    "properties": {
                        "pattern": {"type": "string", "minLength": 1, "description": "The pattern, relative to `path`"},
                        "path": {"type": "string", "description": "Where to look; by default the working directory"}
                    },
                    "required": ["pattern"],
                    "additionalProperties": false
                }),
            },
        }
    }
}

#[async_trait]
impl Tool for Glob {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn effect(&self, _arguments: &Value) -> Effect {
        Effect::Read
    }

    async fn call(&self, call: ToolCall) -> Result<ToolAnswer, ToolError> {
        let arguments: Arguments = arguments(&call)?;
        let context = call.context;
        blocking::run(context.timeout, move |wanted| {
            let matcher = match matcher(&arguments.pattern) {
                Ok(matcher) => matcher,
                Err(why) => return Ok(ToolAnswer::error(why)),
            };
            let workspace = match Workspace::open(&context.workspace) {
                Ok(workspace) => workspace,
                Err(refusal) => return Ok(ToolAnswer::error(refusal.to_string())),
            };
            Ok(match find(&workspace, arguments.path.as_deref().unwrap_or("."), &matcher, wanted)? {
                Ok(listing) => ToolAnswer::text(super::cut(listing, context.output_limit)),
                Err(refusal) => ToolAnswer::error(refusal.to_string()),
            })
        })
        .await
    }
}

/// A pattern in which `*` does not cross directories and `**` does.
pub(crate) fn matcher(pattern: &str) -> Result<GlobMatcher, String> {
    if pattern.len() > PATTERN {
        return Err(format!("the pattern is longer than {PATTERN} bytes"));
    }
    GlobBuilder::new(pattern.trim_start_matches("./"))
        .literal_separator(true)
        .build()
        .map(|glob| glob.compile_matcher())
        .map_err(|error| format!("the pattern is not valid: {error}"))
}

fn find(
    workspace: &Workspace,
    path: &str,
    matcher: &GlobMatcher,
    wanted: &Wanted,
) -> Result<Result<String, Refusal>, Unwanted> {
    let start = match workspace.relative(path).and_then(|path| workspace.resolve(&path)) {
        Ok(start) => start,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let mut found: Vec<(SystemTime, PathBuf)> = Vec::new();
    let mut dropped = 0_usize;
    let walked = walk(workspace, &start, false, wanted, |file| {
        if matcher.is_match(file.path.strip_prefix(&start).unwrap_or(&file.path)) {
            let changed = file.dir.symlink_metadata(file.name).and_then(|metadata| metadata.modified());
            found
                .push((changed.map_or(SystemTime::UNIX_EPOCH, cap_std::time::SystemTime::into_std), file.path.clone()));
            if found.len() >= 2 * FILES {
                newest_first(&mut found);
                dropped += found.len() - FILES;
                found.truncate(FILES);
            }
        }
        Ok(Next::Continue)
    })?;
    let walked = match walked {
        Ok(walked) => walked,
        Err(refusal) => return Ok(Err(refusal)),
    };
    newest_first(&mut found);
    dropped += found.len().saturating_sub(FILES);
    found.truncate(FILES);
    if found.is_empty() {
        return Ok(Ok("No files found".to_owned()));
    }
    let mut listing: String = found.iter().map(|(_, path)| show(path) + "\n").collect();
    if dropped > 0 {
        let _ = writeln!(listing, "[{dropped} more files match; use a narrower pattern or path.]");
    }
    if walked == Walked::TooMany {
        listing.push_str("[There are too many files to look at all of them; name a `path`.]\n");
    }
    Ok(Ok(listing))
}

fn newest_first(found: &mut [(SystemTime, PathBuf)]) {
    found.sort_unstable_by(|(a_time, a_path), (b_time, b_path)| b_time.cmp(a_time).then_with(|| a_path.cmp(b_path)));
}
