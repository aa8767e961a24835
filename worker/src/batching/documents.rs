//! The documents of model batches in the store: read, and replaced for as long as
//! others do so at the same time.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::id::SessionName;
use common::store::{KeepSession, Store, StoreError};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::register::Register;
use super::tray::{TRAYS, Tray, Waiting};

/// For how long a document is kept after its last change: longer than a provider keeps the answers.
const KEEP: Duration = Duration::from_secs(40 * 24 * 3_600);
/// For how long one is kept that is of no more use.
const SOON: Duration = Duration::from_secs(1);
/// How often a change is tried anew because another one came in between.
const TRIES: usize = 100;

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Documents {
    store: Arc<dyn Store>,
}

/// A document with its version; 0: there is none yet.
#[derive(Debug, Clone)]
pub(super) struct Versioned<T> {
    pub(super) version: u64,
    pub(super) document: T,
}

impl Documents {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }

    pub(super) async fn register(&self, provider: &str) -> Result<Versioned<Register>, StoreError> {
        self.read(&name(provider, "register")?).await
    }

    /// Replaces the register; false if it has another version than expected by now. An answer that got lost is asked
    /// for again.
    pub(super) async fn replace_register(
        &self,
        provider: &str,
        expected: u64,
        register: &Register,
    ) -> Result<bool, StoreError> {
        let (name, body) = (name(provider, "register")?, body(register)?);
        match self.keep(&name, expected, body.clone()).await {
            Err(StoreError::Unavailable(why)) => match self.store.session(&name).await? {
                Some(kept) if kept.version == expected + 1 => Ok(kept.body == body),
                _ => Err(StoreError::Unavailable(why)),
            },
            answer => answer,
        }
    }

    pub(super) async fn trays(&self, provider: &str) -> Result<Vec<Tray>, StoreError> {
        let mut trays = Vec::with_capacity(TRAYS);
        for number in 0..TRAYS {
            trays.push(self.read(&tray_name(provider, number)?).await?.document);
        }
        Ok(trays)
    }

    /// Changes a tray; what the change answers.
    pub(super) async fn change_tray<T>(
        &self,
        provider: &str,
        number: usize,
        mut change: impl FnMut(&mut Tray) -> T,
    ) -> Result<T, StoreError> {
        let name = tray_name(provider, number)?;
        for _ in 0..TRIES {
            let Versioned { version, document: before } = self.read::<Tray>(&name).await?;
            let mut tray = before.clone();
            let answer = change(&mut tray);
            if tray == before || self.keep(&name, version, body(&tray)?).await? {
                return Ok(answer);
            }
        }
        Err(StoreError::Unavailable("others changed the tray of a model batch again and again".to_owned()))
    }

    /// Writes the entries of a batch down. Only one holder of the register comes to the number, so that what is there is
    /// of a write of its own whose answer got lost.
    pub(super) async fn write_batch(&self, provider: &str, number: u64, entries: &[Waiting]) -> Result<(), StoreError> {
        let name = batch_name(provider, number)?;
        let before = self.store.session(&name).await?.map_or(0, |kept| kept.version);
        if self.keep(&name, before, body(&Tray { entries: entries.to_vec() })?).await? {
            return Ok(());
        }
        Err(StoreError::Unavailable("the entries of a model batch were written by somebody else".to_owned()))
    }

    /// The entries of a batch are of no more use.
    pub(super) async fn forget_batch(&self, provider: &str, number: u64) -> Result<(), StoreError> {
        let name = batch_name(provider, number)?;
        let Some(kept) = self.store.session(&name).await? else { return Ok(()) };
        let (body, keep) = (body(&Tray::default())?, SOON);
        self.store.keep_session(KeepSession { name, expected: kept.version, body, keep }).await.map(drop)
    }

    pub(super) async fn batch(&self, provider: &str, number: u64) -> Result<Vec<Waiting>, StoreError> {
        Ok(self.read::<Tray>(&batch_name(provider, number)?).await?.document.entries)
    }

    async fn read<T: DeserializeOwned + Default>(&self, name: &SessionName) -> Result<Versioned<T>, StoreError> {
        let Some(kept) = self.store.session(name).await? else {
            return Ok(Versioned { version: 0, document: T::default() });
        };
        let document = serde_json::from_slice(&kept.body)
            .map_err(|error| StoreError::Damaged(format!("{name} cannot be read by this version: {error}")))?;
        Ok(Versioned { version: kept.version, document })
    }

    async fn keep(&self, name: &SessionName, expected: u64, body: Bytes) -> Result<bool, StoreError> {
        self.store.keep_session(KeepSession { name: name.clone(), expected, body, keep: KEEP }).await
    }
}

fn body(document: &impl Serialize) -> Result<Bytes, StoreError> {
    let body = serde_json::to_vec(document)
        .map_err(|error| StoreError::Refused(format!("a document of model batches cannot be written: {error}")))?;
    Ok(body.into())
}

fn tray_name(provider: &str, number: usize) -> Result<SessionName, StoreError> {
    name(provider, &format!("tray {number}"))
}

fn batch_name(provider: &str, number: u64) -> Result<SessionName, StoreError> {
    name(provider, &format!("batch {number}"))
}

/// No session of a user has such a name: those begin with a pipeline's, which has no blank.
fn name(provider: &str, what: &str) -> Result<SessionName, StoreError> {
    SessionName::new(format!("model batches of {provider}/{what}"))
        .map_err(|error| StoreError::Refused(error.to_string()))
}
