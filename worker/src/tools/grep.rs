//! `Grep`: lines of files by a regular expression, as ripgrep finds them.

mod output;

use std::path::Path;

use async_trait::async_trait;
use common::journal::Effect;
use globset::GlobMatcher;
use grep_regex::{RegexMatcher, RegexMatcherBuilder};
use grep_searcher::{BinaryDetection, Searcher, SearcherBuilder};
use ignore::types::{Types, TypesBuilder};
use serde::Deserialize;
use serde_json::{Value, json};

use super::blocking::{self, Unwanted, Wanted};
use super::walk::{Next, Walked, walk};
use super::workspace::{Refusal, Workspace, open_regular, show};
use super::{Tool, ToolAnswer, ToolCall, ToolError, ToolSpec, arguments};
use output::{FileHits, Output};

/// Lines or files that are shown if the call does not say how many.
const DEFAULT_HEAD: usize = 250;
/// Lines of context around a match.
const CONTEXT: usize = 100;
/// The longest pattern, in bytes.
const PATTERN: usize = 4096;
/// Bytes of memory for a compiled pattern, and for the lines of one file that are looked at together.
const MEMORY: usize = 16 << 20;

/// Searches the files of the working directory for a regular expression.
#[derive(Debug)]
pub struct Grep {
    spec: ToolSpec,
}

#[derive(Debug, Deserialize)]
struct Arguments {
    pattern: String,
    path: Option<String>,
    glob: Option<String>,
    r#type: Option<String>,
    #[serde(default)]
    output_mode: OutputMode,
    #[serde(rename = "-i", default)]
    ignore_case: bool,
    #[serde(rename = "-n", default = "yes")]
    line_numbers: bool,
    #[serde(rename = "-A")]
    after: Option<usize>,
    #[serde(rename = "-B")]
    before: Option<usize>,
    #[serde(rename = "-C", alias = "context")]
    around: Option<usize>,
    head_limit: Option<usize>,
    #[serde(default)]
    offset: usize,
    #[serde(default)]
    multiline: bool,
}

/// What is shown of what was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum OutputMode {
    /// Names of files.
    #[default]
    FilesWithMatches,
    /// The lines.
    Content,
    /// How many lines a file.
    Count,
}

fn yes() -> bool {
    true
}

impl Default for Grep {
    fn default() -> Self {
        let lines = |what: &str| json!({"type": "integer", "minimum": 0, "maximum": CONTEXT, "description": what});
        Self {
            spec: ToolSpec {
                name: "Grep".to_owned(),
                description: "Searches file contents for a regular expression (Rust syntax, as ripgrep). Leaves out \
                              binary files and what .gitignore names. `output_mode`: `files_with_matches` (default), \
                              `content` (the lines) or `count`."
                    .to_owned(),
                input_schema: json!({
                    "type": "object",
                    "properties": {
                        "pattern": {"type": "string", "minLength": 1, "description": "The regular expression"},
                        "path": {"type": "string", "description": "A file or directory; by default the working directory"},
                        "glob": {"type": "string", "description": "Only files that match, such as `*.rs` or `src/**/*.ts`"},
                        "type": {"type": "string", "description": "Only files of this type, such as `rust`, `py`, `js`"},
                        "output_mode": {"type": "string", "enum": ["files_with_matches", "content", "count"]},
                        "-i": {"type": "boolean", "description": "Upper and lower case are the same"},
                        "-n": {"type": "boolean", "description": "Show line numbers (default true)"},
                        "-A": lines("Lines to show after each match"),
                        "-B": lines("Lines to show before each match"),
                        "-C": lines("Lines to show before and after each match"),
                        "context": lines("The same as -C"),
                        "head_limit": {"type": "integer", "minimum": 0, "description": "Show only so many lines or files (default 250; 0: no limit)"},
                        "offset": {"type": "integer", "minimum": 0, "description": "Leave out so many lines or files first"},
                        "multiline": {"type": "boolean", "description": "A match may span lines, and `.` matches a line's end"}
                    },
                    "required": ["pattern"],
                    "additionalProperties": false
                }),
            },
        }
    }
}

#[async_trait]
impl Tool for Grep {
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
            let search = match Search::new(&arguments) {
                Ok(search) => search,
                Err(why) => return Ok(ToolAnswer::error(why)),
            };
            let workspace = match Workspace::open(&context.workspace) {
                Ok(workspace) => workspace,
                Err(refusal) => return Ok(ToolAnswer::error(refusal.to_string())),
            };
            let head = match arguments.head_limit {
                None => DEFAULT_HEAD,
                Some(0) => usize::MAX,
                Some(limit) => limit,
            };
            let output = Output::new(arguments.offset, head, context.output_limit);
            Ok(match search.run(&workspace, arguments.path.as_deref().unwrap_or("."), output, wanted)? {
                Ok(text) => ToolAnswer::text(text),
                Err(refusal) => ToolAnswer::error(refusal.to_string()),
            })
        })
        .await
    }
}

/// A search that is ready to go.
struct Search {
    matcher: RegexMatcher,
    searcher: Searcher,
    glob: Option<GlobMatcher>,
    types: Option<Types>,
    mode: OutputMode,
    line_numbers: bool,
}

impl Search {
    fn new(arguments: &Arguments) -> Result<Self, String> {
        if arguments.pattern.len() > PATTERN {
            return Err(format!("the pattern is longer than {PATTERN} bytes"));
        }
        let mut regex = RegexMatcherBuilder::new();
        regex
            .case_insensitive(arguments.ignore_case)
            .multi_line(true)
            .dot_matches_new_line(arguments.multiline)
            .size_limit(MEMORY)
            .dfa_size_limit(MEMORY);
        if !arguments.multiline {
            regex.line_terminator(Some(b'\n'));
        }
        let matcher = regex.build(&arguments.pattern).map_err(|error| format!("the pattern is not valid: {error}"))?;
        let content = arguments.output_mode == OutputMode::Content;
        let lines = |own: Option<usize>| {
            if content { own.or(arguments.around).unwrap_or(0).min(CONTEXT) } else { 0 }
        };
        let searcher = SearcherBuilder::new()
            .multi_line(arguments.multiline)
            .before_context(lines(arguments.before))
            .after_context(lines(arguments.after))
            .binary_detection(BinaryDetection::quit(0))
            .heap_limit(Some(MEMORY))
            .build();
        // As in ripgrep, a pattern without a slash is about the name alone.
        let glob = arguments.glob.as_deref().map(|glob| {
            let anywhere = if glob.contains('/') { glob.to_owned() } else { format!("**/{glob}") };
            super::glob::matcher(&anywhere)
        });
        let types = arguments.r#type.as_deref().map(|name| {
            let types = TypesBuilder::new().add_defaults().select(name).build();
            types.map_err(|_| format!("there is no file type {name:?}; use `glob` instead"))
        });
        Ok(Self {
            matcher,
            searcher,
            glob: glob.transpose()?,
            types: types.transpose()?,
            mode: arguments.output_mode,
            line_numbers: arguments.line_numbers,
        })
    }

    fn run(
        mut self,
        workspace: &Workspace,
        path: &str,
        mut output: Output,
        wanted: &Wanted,
    ) -> Result<Result<String, Refusal>, Unwanted> {
        let start = match workspace.relative(path).and_then(|path| workspace.resolve(&path)) {
            Ok(start) => start,
            Err(refusal) => return Ok(Err(refusal)),
        };
        match workspace.metadata(&start) {
            Err(refusal) => return Ok(Err(refusal)),
            Ok(metadata) if !metadata.is_dir() => {
                return match workspace.open_file(&start) {
                    Ok(file) => {
                        self.file(file.into_std(), &start, &mut output, wanted)?;
                        Ok(Ok(output.finish()))
                    }
                    Err(refusal) => Ok(Err(refusal)),
                };
            }
            Ok(_) => {}
        }
        let walked = walk(workspace, &start, true, wanted, |found| {
            let within = found.path.strip_prefix(&start).unwrap_or(&found.path);
            let chosen = self.glob.as_ref().is_none_or(|glob| glob.is_match(within))
                && self.types.as_ref().is_none_or(|types| types.matched(within, false).is_whitelist());
            if chosen && let Ok(file) = open_regular(found.dir, found.name) {
                self.file(file.into_std(), &found.path, &mut output, wanted)?;
            }
            Ok(if output.is_full() { Next::Stop } else { Next::Continue })
        })?;
        match walked {
            Ok(Walked::Done) => {}
            Ok(Walked::TooMany) => output.note("There are too many files to look at all of them; name a `path`."),
            Err(refusal) => return Ok(Err(refusal)),
        }
        Ok(Ok(output.finish()))
    }

    fn file(&mut self, file: std::fs::File, path: &Path, output: &mut Output, wanted: &Wanted) -> Result<(), Unwanted> {
        let name = show(path);
        let mut hits = FileHits::new(&name, self.mode, self.line_numbers, output);
        let searched = self.searcher.search_reader(&self.matcher, Watched { file, wanted }, &mut hits);
        // Given up, the search ends with an error of ours; this tells it from others.
        wanted.check()?;
        hits.finish();
        if let Err(error) = searched {
            output.note(&format!("{name} was not searched to its end: {error}"));
        }
        Ok(())
    }
}

/// A file whose reading ends when nobody waits for it any more.
struct Watched<'a> {
    file: std::fs::File,
    wanted: &'a Wanted,
}

impl std::io::Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.wanted.check().map_err(|Unwanted| std::io::Error::other("given up"))?;
        self.file.read(buffer)
    }
}
