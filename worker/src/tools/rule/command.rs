//! Patterns of shell commands.

use super::Reading;

/// What makes a command more than one simple command: what follows such a
/// character may be another program, or a file that is written.
const OPERATORS: [char; 12] = [';', '&', '|', '<', '>', '`', '$', '(', ')', '{', '}', '\n'];

/// The part of a `Bash` rule within its parentheses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Pattern {
    /// This very command.
    Exact(String),
    /// `git diff:*`: these words, and whatever arguments follow.
    Prefix(String),
    /// `npm run *`: each `*` stands for anything.
    Wildcard(Vec<String>),
}

impl Pattern {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if let Some(prefix) = text.strip_suffix(":*") {
            return if prefix.contains('*') || prefix.contains(OPERATORS) {
                Err("what stands before :* are plain words of a command".to_owned())
            } else {
                Ok(Self::Prefix(words(prefix)))
            };
        }
        if !text.contains('*') {
            return Ok(Self::Exact(text.to_owned()));
        }
        if text.contains(OPERATORS) {
            return Err("a pattern with * cannot have shell operators in it".to_owned());
        }
        Ok(Self::Wildcard(text.split('*').map(str::to_owned).collect()))
    }

    /// Whether a command fits. To grant, it must be one simple command, without
    /// operators, substitutions, variables, redirections and line breaks; to
    /// take, it is enough that one of its parts fits.
    pub(super) fn fits(&self, command: &str, reading: Reading) -> bool {
        let command = command.trim();
        match reading {
            Reading::Grants => match self {
                Self::Exact(exact) => command == exact,
                _ if command.contains(OPERATORS) || command.contains(char::is_control) => false,
                _ => self.fits_simple(command),
            },
            Reading::Takes => {
                self.fits_simple(command) || command.split(OPERATORS).any(|part| self.fits_simple(bare(part)))
            }
        }
    }

    fn fits_simple(&self, command: &str) -> bool {
        match self {
            Self::Exact(exact) => command == exact,
            Self::Prefix(prefix) => {
                let command = words(command);
                command.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
            }
            Self::Wildcard(pieces) => wildcard(pieces, command),
        }
    }
}

/// A part of a command as it would be run: without the variables that are set
/// for it, and the words that only lead to another command.
fn bare(part: &str) -> &str {
    let mut part = part.trim();
    while let Some((first, rest)) = part.split_once(char::is_whitespace) {
        let leads = matches!(
            first,
            "!" | "command" | "do" | "else" | "env" | "exec" | "if" | "nohup" | "sudo" | "then" | "time" | "while"
        );
        let sets = first.split_once('=').is_some_and(|(name, _)| !name.is_empty() && !name.starts_with('-'));
        if !leads && !sets {
            break;
        }
        part = rest.trim_start();
    }
    part
}

fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn wildcard(pieces: &[String], command: &str) -> bool {
    let [first, middle @ .., last] = pieces else { return false };
    let Some(mut rest) = command.strip_prefix(first.as_str()) else { return false };
    for piece in middle {
        match rest.find(piece.as_str()) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    rest.ends_with(last.as_str())
}
