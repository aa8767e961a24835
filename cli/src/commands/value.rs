//! Arguments that carry values: JSON, `@FILE`, stdin, `KEY=VALUE`.

use std::io::Read;
use std::str::FromStr;

use serde_json::Value;

use crate::error::{CommandError, Exit};

/// The most that is read from a file or stdin as one value.
const LIMIT: u64 = 64 << 20;

/// `KEY=VALUE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Label {
    pub(crate) name: String,
    pub(crate) value: String,
}

impl FromStr for Label {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok(Self { name: name.to_owned(), value: value.to_owned() }),
            _ => Err(format!("{text:?} is not a label; write KEY=VALUE")),
        }
    }
}

/// The JSON of an argument: itself, `@FILE`, or `-` for stdin.
pub(crate) fn json_argument(option: &str, argument: &str) -> Result<Value, CommandError> {
    let (origin, text) = match argument.strip_prefix('@') {
        Some(path) => {
            let file = std::fs::File::open(path).map_err(|error| {
                let exit = if error.kind() == std::io::ErrorKind::NotFound { Exit::NotFound } else { Exit::Failed };
                CommandError::new(exit, format!("{option} @{path}: {error}"))
            })?;
            (path.to_owned(), read(option, file)?)
        }
        None if argument == "-" => ("stdin".to_owned(), read(option, std::io::stdin().lock())?),
        None => ("the argument".to_owned(), argument.to_owned()),
    };
    serde_json::from_str(&text).map_err(|error| {
        CommandError::refused(format!(
            "{option}: {origin} is not JSON: {error}; write for example '{{\"name\": \"Ada\"}}', @input.json, or - for stdin"
        ))
    })
}

fn read(option: &str, source: impl Read) -> Result<String, CommandError> {
    let mut text = String::new();
    let read = source
        .take(LIMIT + 1)
        .read_to_string(&mut text)
        .map_err(|error| CommandError::refused(format!("{option}: {error}")))?;
    if read as u64 > LIMIT {
        return Err(CommandError::refused(format!("{option}: more than {} MiB", LIMIT >> 20)));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::expect_used)]
    use super::*;

    #[test]
    fn an_argument_that_is_no_json_is_refused_with_advice() {
        let error = json_argument("--input", "{name: Ada}").expect_err("no JSON");
        assert_eq!(error.exit, Exit::Refused);
        assert!(error.message.contains("--input: the argument is not JSON"), "{error}");
        assert_eq!(json_argument("--input", "@/does/not/exist").expect_err("no file").exit, Exit::NotFound);
    }

    #[test]
    fn a_label_is_split_at_its_first_equals_sign() {
        assert_eq!("a=b=c".parse(), Ok(Label { name: "a".into(), value: "b=c".into() }));
        assert!("=b".parse::<Label>().is_err() && "a".parse::<Label>().is_err());
    }
}
