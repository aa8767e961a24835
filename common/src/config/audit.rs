//! How the chains of journals are signed, and whose signatures are accepted.

use serde::Deserialize;

use crate::journal::{InvalidKey, PublicKey, SealKey};
use crate::secret::{SecretError, SecretRef};
use secrecy::ExposeSecret;

/// `audit:`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Audit {
    /// The key that this process signs with: 32 bytes of a seed as hexadecimal digits or base64. Without one, or where
    /// its variable is not set, journals are written unsigned.
    pub key: Option<SecretRef>,
    /// Keys whose signatures `teamster audit verify` accepts beside that one: of other processes, or older ones.
    pub public_keys: Vec<String>,
}

/// Why there is no key to sign with.
#[derive(Debug, thiserror::Error)]
pub enum AuditKeyError {
    /// See [`SecretError`].
    #[error("audit.key: {0}")]
    Secret(#[from] SecretError),
    /// What is there is none.
    #[error("audit.key: {0}")]
    Invalid(InvalidKey),
    /// What stands under `public_keys` is none.
    #[error("audit.public_keys: {0}")]
    InvalidPublic(InvalidKey),
}

impl Audit {
    /// The key to sign with; none if none is configured, or its variable is not set here.
    ///
    /// # Errors
    /// [`AuditKeyError`] if there should be one and it cannot be had.
    pub fn seal_key(&self) -> Result<Option<SealKey>, AuditKeyError> {
        let secret = match self.key.as_ref().map(SecretRef::resolve) {
            None | Some(Err(SecretError::Unset(_))) => return Ok(None),
            Some(secret) => secret?,
        };
        SealKey::parse(secret.expose_secret()).map(Some).map_err(AuditKeyError::Invalid)
    }

    /// Whose signatures are accepted.
    ///
    /// # Errors
    /// [`AuditKeyError`] if one of them is no key.
    pub fn accepted(&self) -> Result<Vec<PublicKey>, AuditKeyError> {
        let named = self.public_keys.iter().map(|text| text.parse().map_err(AuditKeyError::InvalidPublic));
        let mut keys = named.collect::<Result<Vec<PublicKey>, _>>()?;
        keys.extend(self.seal_key()?.map(|key| key.public()));
        Ok(keys)
    }
}
