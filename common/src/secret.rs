//! Secrets by reference: `env:NAME` or `file:/path`. A value never stands in a
//! file that users write, in a journal, or in a log.

use std::path::PathBuf;

use secrecy::SecretString;
use serde::Deserialize;

/// Where a secret is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum SecretRef {
    /// An environment variable.
    Env(String),
    /// A file; white space at its end is cut off.
    File(PathBuf),
}

/// A secret that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The variable is not set.
    #[error("the environment variable {0} is not set")]
    Unset(String),
    /// The file cannot be read.
    #[error("the secret file {path} cannot be read: {source}")]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// There is nothing in it.
    #[error("the secret {0} is empty")]
    Empty(String),
}

impl TryFrom<String> for SecretRef {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("env", name)) if !name.is_empty() => Ok(Self::Env(name.to_owned())),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            // The text may be the secret itself: it must not be repeated in a message.
            _ => Err("a secret is a reference, env:NAME or file:/path, and never the value itself".to_owned()),
        }
    }
}

impl SecretRef {
    /// Reads the secret.
    pub fn resolve(&self) -> Result<SecretString, SecretError> {
        let value = match self {
            Self::Env(name) => std::env::var(name).map_err(|_| SecretError::Unset(name.clone()))?,
            Self::File(path) => std::fs::read_to_string(path)
                .map_err(|source| SecretError::Unreadable { path: path.clone(), source })?
                .trim_end()
                .to_owned(),
        };
        if value.is_empty() {
            let name = match self {
                Self::Env(name) => format!("env:{name}"),
                Self::File(path) => format!("file:{}", path.display()),
            };
            return Err(SecretError::Empty(name));
        }
        Ok(value.into())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn a_value_that_is_no_reference_is_refused_and_not_repeated() {
        for text in ["hunter2", "env:", "file:", "", "https://hunter2"] {
            let message = SecretRef::try_from(text.to_owned()).unwrap_err();
            assert!(!message.contains("hunter2"), "{message}");
        }
    }

    #[test]
    fn a_file_is_read_without_the_white_space_at_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, " a b\r\n\n").unwrap();
        let secret = SecretRef::File(path.clone());
        assert_eq!(secret.resolve().unwrap().expose_secret(), " a b");
        std::fs::write(&path, "\n").unwrap();
        assert!(matches!(secret.resolve(), Err(SecretError::Empty(_))));
        assert!(matches!(SecretRef::File(dir.path().join("none")).resolve(), Err(SecretError::Unreadable { .. })));
    }
}
