//! The scripts, and how one is called: by its digest, and whole if the server
//! does not know it (any more).

use std::sync::LazyLock;

use redis::{Cmd, Value};

use super::connection::Link;
use super::reply::Reply;
use crate::store::StoreError;

/// A script with its digest.
#[derive(Debug)]
pub(super) struct Script {
    source: &'static str,
    digest: LazyLock<String>,
}

/// Scripts all begin with the same part.
macro_rules! scripts {
    ($($(#[$doc:meta])* $name:ident = $file:literal;)+) => {
        $(
            $(#[$doc])*
            pub(super) static $name: Script = Script {
                source: concat!(include_str!("prelude.lua"), include_str!($file)),
                digest: LazyLock::new(|| {
                    redis::Script::new(concat!(include_str!("prelude.lua"), include_str!($file))).get_hash().to_owned()
                }),
            };
        )+
    };
}

scripts! {
    /// Every change of tasks, renewals and leases apart.
    COMMIT = "commit.lua";
    /// Reads tasks.
    LOAD = "load.lua";
    /// Leases tasks.
    TAKE = "take.lua";
    /// Renews leases.
    RENEW = "renew.lua";
    /// Looks at queues.
    PEEK = "peek.lua";
    /// Says what is due.
    DUE = "due.lua";
    /// Puts a task into its supersede group.
    ELDER = "elder.lua";
    /// Notes rejected rows.
    REJECT = "reject.lua";
    /// Gives hints again.
    UNSENT = "unsent.lua";
    /// Forgets hints.
    SENT = "sent.lua";
    /// Keeps a blob.
    KEEP_BLOB = "keep_blob.lua";
    /// Removes blobs that nobody uses.
    UNUSED = "unused.lua";
    /// Reads fields of hashes.
    FIELDS = "fields.lua";
    /// Writes fields of hashes that have not changed.
    SWAP = "swap.lua";
}

/// Arguments one behind the other: cheap to build, to keep and to pass on.
#[derive(Debug, Clone, Default)]
pub(super) struct Args {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Args {
    pub(super) fn push(&mut self, argument: impl AsRef<[u8]>) {
        self.bytes.extend_from_slice(argument.as_ref());
        self.ends.push(self.bytes.len());
    }

    /// Adds an argument made of two parts.
    pub(super) fn push_both(&mut self, first: &[u8], second: &[u8]) {
        self.bytes.extend_from_slice(first);
        self.push(second);
    }

    pub(super) fn number(&mut self, number: impl std::fmt::Display) {
        self.push(number.to_string());
    }

    /// Adds all of others.
    pub(super) fn append(&mut self, others: &Self) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&others.bytes);
        self.ends.extend(others.ends.iter().map(|end| start + end));
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut start = 0;
        self.ends.iter().map(move |end| {
            let argument = self.bytes.get(start..*end).unwrap_or_default();
            start = *end;
            argument
        })
    }
}

impl Script {
    /// Calls it on a partition, whose keys begin with `partition`.
    pub(super) async fn call(&self, link: &Link, partition: &[u8], args: &[&Args]) -> Result<Reply, StoreError> {
        let value = match link.run(&command("EVALSHA", &self.digest, partition, args)).await {
            Err(error) if is_unknown(&error) => link.run(&command("EVAL", self.source, partition, args)).await,
            answer => answer,
        };
        value.map(Reply::new).map_err(|error| link.classify(&error))
    }
}

fn is_unknown(error: &redis::RedisError) -> bool {
    matches!(error.kind(), redis::ErrorKind::Server(redis::ServerErrorKind::NoScript))
}

fn command(name: &str, script: &str, partition: &[u8], args: &[&Args]) -> Cmd {
    let count: usize = args.iter().map(|args| args.len()).sum();
    let bytes: usize = args.iter().map(|args| args.bytes()).sum();
    let mut command = Cmd::with_capacity(count + 4, bytes + script.len() + partition.len() + 16);
    command.arg(name).arg(script).arg(1).arg(partition);
    for argument in args.iter().flat_map(|args| args.iter()) {
        command.arg(argument);
    }
    command
}

/// The answer to a command as a reply.
pub(super) async fn ask(link: &Link, command: &Cmd) -> Result<Value, StoreError> {
    link.run(command).await.map_err(|error| link.classify(&error))
}
