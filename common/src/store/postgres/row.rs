//! Tasks and events as rows: what is read is decoded here.

use serde_json::value::RawValue;
use tokio_postgres::Row;
use uuid::Uuid;

use super::fault::Fault;
use super::value::{Time, natural};
use crate::id::{AppendId, LeaseToken, QueueName, TaskId};
use crate::journal::{Chained, EventHash, Recorded};
use crate::store::book::{Entry, LastAppend, Lease};
use crate::task::{Head, Signal, StateName};

/// What [`Stored::read`] reads, in order.
macro_rules! columns {
    () => {
        "id, head, token, due_at, inbox, journal_bytes, last_append, last_from, last_to, batch, state, queue, parent, \
         chain, chain_at"
    };
}
pub(super) use columns;

/// A task as it is stored.
pub(super) struct Stored {
    pub(super) id: TaskId,
    pub(super) beside: Beside,
    /// The task, or why this version cannot read it.
    pub(super) entry: Result<Entry, String>,
}

/// What a row holds beside the [`Entry`].
#[derive(Debug, Clone)]
pub(super) struct Beside {
    pub(super) queue: String,
    pub(super) state: Option<StateName>,
    pub(super) parent: Option<TaskId>,
    /// The batch of which a row made it.
    pub(super) batch: Option<String>,
    pub(super) journal_bytes: u64,
    /// Kept signals that only a newer version can read, as JSON: they are left alone.
    pub(super) unread: Vec<String>,
}

impl Stored {
    pub(super) fn read(row: &Row) -> Result<Self, Fault> {
        let id = TaskId::from_uuid(row.try_get(0)?);
        let token: Option<Uuid> = row.try_get(2)?;
        let due_at: Option<Time> = row.try_get(3)?;
        let (kept, unread) = inbox(row.try_get(4)?);
        let journal_bytes = natural(row.try_get(5)?);
        let append: (Option<Uuid>, Option<i64>, Option<i64>) = (row.try_get(6)?, row.try_get(7)?, row.try_get(8)?);
        let last_append = match append {
            (Some(id), Some(from), Some(to)) => {
                Some(LastAppend { id: AppendId::new(id.into_bytes()), from: natural(from), to: natural(to) })
            }
            _ => None,
        };
        let state: Option<StateName> = row.try_get::<_, &str>(10)?.parse().ok();
        let beside = Beside {
            queue: row.try_get(11)?,
            state,
            parent: row.try_get::<_, Option<Uuid>>(12)?.map(TaskId::from_uuid),
            batch: row.try_get(9)?,
            journal_bytes,
            unread,
        };
        let (chain, chain_at) = (hash(row, 13)?, row.try_get::<_, Option<i64>>(14)?);
        let entry = serde_json::from_str::<Head>(row.try_get(1)?).map_err(|why| why.to_string()).map(|head| {
            let lease = token
                .zip(due_at)
                .map(|(token, Time(expires))| Lease { token: LeaseToken::new(token.into_bytes()), expires });
            Entry {
                set_aside: state == Some(StateName::Dead) && !head.state.is_terminal(),
                lease,
                kept,
                journal_bytes,
                // A version without chains may have written after it.
                hash: chain.filter(|_| chain_at.map(natural) == Some(head.version)),
                last_append,
                children: Vec::new(),
                ending: None,
                head,
            }
        });
        Ok(Self { id, beside, entry })
    }

    /// Where it queues, if this version can read the name.
    pub(super) fn queue(&self) -> Option<QueueName> {
        QueueName::new(self.beside.queue.clone()).ok()
    }
}

/// The signals of an inbox, and those that this version cannot read.
fn inbox(json: Option<&str>) -> (Vec<Signal>, Vec<String>) {
    let all: Vec<Box<RawValue>> = json.and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default();
    let (mut kept, mut unread) = (Vec::new(), Vec::new());
    for signal in all {
        match serde_json::from_str(signal.get()) {
            Ok(signal) => kept.push(signal),
            Err(_) => unread.push(signal.get().to_owned()),
        }
    }
    (kept, unread)
}

/// The reverse of [`inbox`]; nothing for an empty one.
pub(super) fn inbox_json(kept: &[Signal], unread: &[String]) -> Result<Option<String>, Fault> {
    if kept.is_empty() && unread.is_empty() {
        return Ok(None);
    }
    let mut all = unread.to_vec();
    for signal in kept {
        all.push(serde_json::to_string(signal).map_err(|why| Fault::Unavailable(format!("a signal: {why}")))?);
    }
    Ok(Some(format!("[{}]", all.join(","))))
}

/// Decodes the columns `seq, at, event` from a place on.
pub(super) fn event(row: &Row, task: TaskId, first: usize) -> Result<Recorded, Fault> {
    let seq = natural(row.try_get(first)?);
    let Time(at) = row.try_get(first + 1)?;
    let event = serde_json::from_str(row.try_get(first + 2)?)
        .map_err(|why| Fault::damaged(&format!("event {seq} of task {task}"), &why))?;
    Ok(Recorded { seq, at, event })
}

/// Decodes the columns `seq, at, event, hash`.
pub(super) fn chained(row: &Row) -> Result<Chained, Fault> {
    let Time(at) = row.try_get(1)?;
    Ok(Chained { seq: natural(row.try_get(0)?), at, event: row.try_get(2)?, hash: hash(row, 3)? })
}

fn hash(row: &Row, column: usize) -> Result<Option<EventHash>, Fault> {
    let bytes: Option<&[u8]> = row.try_get(column)?;
    Ok(bytes.and_then(|bytes| bytes.try_into().ok()).map(EventHash::from_bytes))
}

/// Labels as they are kept: a line each, so that a filter finds one as a part of the text.
pub(super) fn labels(head: &Head) -> Option<String> {
    if head.labels.is_empty() {
        return None;
    }
    let mut text = String::from("\n");
    for (name, value) in &head.labels {
        text.push_str(label(name, value).trim_start_matches('\n'));
    }
    Some(text)
}

/// One label between two ends of line.
pub(super) fn label(name: &str, value: &str) -> String {
    let plain = |text: &str| text.replace('\\', "\\\\").replace('\n', "\\n").replace('\0', "\\0");
    format!("\n{}={}\n", plain(name).replace('=', "\\="), plain(value))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn signals_of_a_newer_version_are_left_alone() {
        let json = r#"[{"signal":"wake"},{"signal":"from_the_future","x":1}]"#;
        let (kept, unread) = inbox(Some(json));
        assert_eq!(kept, [Signal::Wake]);
        assert_eq!(inbox_json(&[], &unread).unwrap().unwrap(), r#"[{"signal":"from_the_future","x":1}]"#);
        assert_eq!(inbox_json(&[], &[]).unwrap(), None);
    }

    #[test]
    fn a_label_is_found_by_its_line_and_no_other_is() {
        assert_eq!(label("team", "a"), "\nteam=a\n");
        assert_ne!(label("a=b", "c"), label("a", "b=c"));
        assert!(!label("x", "\0\n").trim_matches('\n').contains(['\0', '\n']));
    }
}
