//! `teamster audit`: whether journals are what was written, who did what when,
//! and keys to sign with. Reads the store itself, and changes nothing there.

use std::fmt::Write as _;
use std::io::{BufWriter, IsTerminal, Write as _};
use std::sync::Arc;

use clap::{Args, Subcommand};
use common::audit::{Agents, journal, records, verify};
use common::clock::Timestamp;
use common::config::Config;
use common::id::{PipelineName, TaskId};
use common::journal::chain::Verified;
use common::journal::{Chained, PublicKey, SealKey};
use common::project::Project;
use common::store::{Cursor, Filter, Store};
use common::task::Head;
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};

use crate::context::Context;
use crate::error::{CommandError, Exit};
use crate::installation::{open_existing, store_url};
use crate::output::{Output, Tone, count, note};
use crate::progress::Progress;

/// Heads that are read at once.
const PAGE: usize = 200;
/// Journals that are read at the same time.
const READERS: usize = 8;

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Find every edit, removal, insertion, reordering and cut of journals
    #[command(after_help = "Each event carries the hash of the one before. With `audit: { key: env:NAME }` in
teamster.yaml, whoever writes to a journal signs its newest hash. Without a signature,
somebody who can write to the store can write a whole journal anew, hashes and all;
with one, only who has the key. What the signature cannot show: that a task was
removed as a whole, or that an older state of it was put back with its older signature.

Exit codes: 0 all is as it was written, 1 it is not, 3 there is no such task.

Examples:
  teamster audit verify 0198c0de-…
  teamster audit verify --all --signed --public-key 3b6a27bc…
  teamster audit verify --all --json | jq '.tasks[] | select(.faults != [])'")]
    Verify(VerifyArgs),
    /// Print who did what when, a JSON object an event; values by their digests
    #[command(after_help = "Fields: session (the task), pipeline, seq, time, event, step, agent, tool, call,
input_hash, output_hash, decision, person, event_hash. A hash is BLAKE3 of the value's JSON.

Examples:
  teamster audit export --task 0198c0de-…
  teamster audit export --pipeline lead-intake --since 2026-01-01T00:00:00Z > audit.jsonl")]
    Export(ExportArgs),
    /// Make a new pair of keys: one to sign with, one to verify with
    Key,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The tasks
    #[arg(value_name = "TASK", required_unless_present = "all")]
    tasks: Vec<TaskId>,
    /// All tasks of the store; shows those that are not as they were written
    #[arg(long, conflicts_with = "tasks")]
    all: bool,
    /// A key whose signatures are accepted; may be given again [default: those of teamster.yaml]
    #[arg(long, value_name = "KEY")]
    public_key: Vec<PublicKey>,
    /// A done task whose newest event is not signed is a fault, too
    #[arg(long)]
    signed: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// Only this task; may be given again
    #[arg(long, value_name = "ID")]
    task: Vec<TaskId>,
    /// Only tasks of this pipeline
    #[arg(long, value_name = "NAME", conflicts_with = "task")]
    pipeline: Option<PipelineName>,
    /// Only events since this time, such as 2026-01-31T00:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<Timestamp>,
}

pub(crate) async fn run(command: AuditCommand, context: &Context) -> Result<(), CommandError> {
    match command {
        AuditCommand::Verify(args) => verify_tasks(args, context).await,
        AuditCommand::Export(args) => export(args, context).await,
        AuditCommand::Key => key(context),
    }
}

async fn open(context: &Context) -> Result<(Config, Arc<dyn Store>), CommandError> {
    let mut config = Project::load(&context.globals.dir).map(|project| project.config).unwrap_or_default();
    let url = store_url(context, &config, &context.globals.dir);
    let audit = std::mem::take(&mut config.audit);
    // Nothing is written: no key is needed to open.
    let store = open_existing(context, &config, &url).await?;
    config.audit = audit;
    Ok((config, store))
}

/// What came of a look at one task.
struct Looked {
    task: TaskId,
    verified: Verified,
    /// Whether a done task lacks the signature of its newest event.
    unsigned: bool,
    /// Whether that counts.
    signed: bool,
}

impl Looked {
    fn is_intact(&self) -> bool {
        self.verified.faults.is_empty() && !(self.unsigned && self.signed)
    }
}

/// What looks at tasks.
#[derive(Clone)]
struct Looker {
    store: Arc<dyn Store>,
    keys: Arc<[PublicKey]>,
    signed: bool,
}

impl Looker {
    fn has_keys(&self) -> bool {
        !self.keys.is_empty()
    }

    /// Looks at a task; nothing if it is gone.
    async fn look(&self, head: &Head) -> Result<Option<Looked>, CommandError> {
        let Some(verified) = verify(&*self.store, head.id, &self.keys).await? else { return Ok(None) };
        let to = verified.sealed.map_or(0, |(to, _)| to);
        let lacks = to < verified.events || (self.has_keys() && !verified.seal_holds);
        let unsigned = head.state.is_terminal() && lacks;
        Ok(Some(Looked { task: head.id, verified, unsigned, signed: self.signed }))
    }
}

async fn verify_tasks(args: VerifyArgs, context: &Context) -> Result<(), CommandError> {
    let (config, store) = open(context).await?;
    let keys = if args.public_key.is_empty() {
        config.audit.accepted().map_err(|error| CommandError::refused(error.to_string()))?
    } else {
        args.public_key
    };
    if args.signed && keys.is_empty() {
        let why = "--signed needs a key to check signatures with: --public-key KEY, or audit: in teamster.yaml";
        return Err(CommandError::usage(why));
    }
    let looker = Looker { store: Arc::clone(&store), keys: keys.into(), signed: args.signed };
    let mut tally = Tally::default();
    if args.all {
        let mut progress = Progress::new("tasks", 0, context.output.json);
        let mut after: Option<Cursor> = None;
        loop {
            let page = store.list(Filter::default(), after, PAGE).await?;
            let look = |head: Head| {
                let looker = looker.clone();
                async move { looker.look(&head).await }
            };
            let mut looks = stream::iter(page.tasks).map(look).buffered(READERS);
            while let Some(looked) = looks.try_next().await? {
                // Retention may have removed it meanwhile.
                let Some(looked) = looked else { continue };
                if !looked.is_intact() && !context.output.json {
                    progress.say(words(&looked, looker.has_keys(), context.output));
                }
                tally.add(looked, false);
                progress.set(tally.tasks, "");
            }
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        progress.finish();
    } else {
        for task in args.tasks {
            let head = store.head(task).await?;
            let missing = || CommandError::new(Exit::NotFound, format!("there is no task {task}"));
            let head: Head = head.ok_or_else(missing)?;
            let looked = looker.look(&head).await?.ok_or_else(missing)?;
            if !context.output.json {
                context.output.line(words(&looked, looker.has_keys(), context.output))?;
            }
            tally.add(looked, true);
        }
    }
    if context.output.json {
        context.output.document(&tally.document())?;
    } else if args.all {
        context.output.line(tally.sentence())?;
    }
    if tally.faulty == 0 { Ok(()) } else { Err(CommandError::silent(Exit::Failed)) }
}

/// Sums over tasks.
#[derive(Debug, Default)]
struct Tally {
    tasks: u64,
    faulty: u64,
    unsigned: u64,
    unchained: u64,
    erased: u64,
    shown: Vec<Value>,
}

impl Tally {
    fn add(&mut self, looked: Looked, shown: bool) {
        let intact = looked.is_intact();
        let Looked { task, verified, unsigned, .. } = looked;
        self.tasks += 1;
        self.faulty += u64::from(!intact);
        self.unsigned += u64::from(unsigned);
        self.unchained += u64::from(verified.starts != Some(1));
        self.erased += u64::from(verified.erased);
        if shown || !intact {
            let faults = verified.faults.iter();
            let faults: Vec<Value> = faults
                .map(|fault| json!({"kind": fault.kind(), "event": fault.event(), "said": fault.to_string()}))
                .collect();
            self.shown.push(json!({
                "task": task,
                "intact": intact,
                "events": verified.events,
                "chain_starts": verified.starts,
                "head": verified.head,
                "signed_to": verified.sealed.map(|(to, _)| to),
                "signed_by": verified.sealed.map(|(_, key)| key.to_string()),
                "signature_holds": verified.seal_holds,
                "unsigned_head": unsigned,
                "erased": verified.erased,
                "faults": faults,
            }));
        }
    }

    fn document(&self) -> Value {
        json!({
            "verified": self.tasks,
            "faulty": self.faulty,
            "unsigned_heads": self.unsigned,
            "not_chained_from_the_first_event": self.unchained,
            "erased": self.erased,
            "tasks": self.shown,
        })
    }

    fn sentence(&self) -> String {
        let mut text = format!("{} tasks verified, {} not as they were written", count(self.tasks), count(self.faulty));
        for (number, what) in [
            (self.unsigned, "done with an unsigned head"),
            (self.unchained, "not chained from their first event on"),
            (self.erased, "with erased data"),
        ] {
            if number > 0 {
                let _ = write!(text, ", {} {what}", count(number));
            }
        }
        text
    }
}

/// What is said of one task.
fn words(looked: &Looked, keys: bool, output: Output) -> String {
    let Looked { task, verified, unsigned, signed } = looked;
    let mut text = if looked.is_intact() {
        format!("{task} {}: {} events", output.paint(Tone::Good, "intact"), count(verified.events))
    } else {
        format!("{task} {}", output.paint(Tone::Bad, "is not what was written"))
    };
    for fault in &verified.faults {
        let _ = write!(text, "\n  {fault}");
    }
    match verified.starts {
        Some(1) => {}
        Some(first) => {
            let _ = write!(
                text,
                "\n  the chain starts at event {first}: what an older version wrote before is not covered"
            );
        }
        None => text.push_str("\n  it has no chain: an older version wrote all of it"),
    }
    match verified.sealed {
        None => text.push_str("\n  unsigned head"),
        Some((to, key)) => {
            let checked = match (keys, verified.seal_holds) {
                (true, true) => "the signature holds",
                (true, false) => "the signature does not hold",
                (false, _) => "not checked: name the public key with --public-key",
            };
            let _ = write!(text, "\n  signed up to event {to} with key {key}; {checked}");
            if to < verified.events {
                let _ = write!(text, "\n  unsigned head: {} newer events", count(verified.events - to));
            }
        }
    }
    if *unsigned && *signed {
        text.push_str("\n  it is done, and its newest event is not signed (--signed)");
    }
    if verified.erased {
        text.push_str("\n  its data was erased");
    }
    text
}

async fn export(args: ExportArgs, context: &Context) -> Result<(), CommandError> {
    let (_, store) = open(context).await?;
    let mut sink = Sink {
        out: BufWriter::new(std::io::stdout()),
        agents: Agents::default(),
        since: args.since,
        events: 0,
        tasks: 0,
    };
    for task in &args.task {
        let missing = || CommandError::new(Exit::NotFound, format!("there is no task {task}"));
        let head = store.head(*task).await?.ok_or_else(missing)?;
        sink.write(&*store, &head, &journal(&*store, *task).await?).await?;
    }
    if args.task.is_empty() {
        let filter = Filter { pipeline: args.pipeline, ..Filter::default() };
        let mut progress = Progress::new("tasks", 0, std::io::stdout().is_terminal());
        let mut after: Option<Cursor> = None;
        loop {
            let page = store.list(filter.clone(), after, PAGE).await?;
            let mut heads = page.tasks;
            heads.retain(|head| args.since.is_none_or(|since| head.updated_at >= since));
            let read = |head: Head| {
                let store = Arc::clone(&store);
                async move { journal(&*store, head.id).await.map(|journal| (head, journal)) }
            };
            let mut journals = stream::iter(heads).map(read).buffered(READERS);
            while let Some((head, journal)) = journals.try_next().await? {
                sink.write(&*store, &head, &journal).await?;
                progress.set(sink.tasks, "");
            }
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        progress.finish();
    }
    sink.out.flush()?;
    note(format!("{} events of {} tasks", count(sink.events), count(sink.tasks)));
    Ok(())
}

/// Where records go.
struct Sink {
    out: BufWriter<std::io::Stdout>,
    agents: Agents,
    since: Option<Timestamp>,
    events: u64,
    tasks: u64,
}

impl Sink {
    async fn write(&mut self, store: &dyn Store, head: &Head, journal: &[Chained]) -> Result<(), CommandError> {
        let agents = self.agents.of(store, &head.digest).await?;
        for record in records(head.id, &head.pipeline, agents, journal) {
            if self.since.is_none_or(|since| record.time >= since) {
                serde_json::to_writer(&mut self.out, &record).map_err(std::io::Error::from)?;
                self.out.write_all(b"\n")?;
                self.events += 1;
            }
        }
        self.tasks += 1;
        Ok(())
    }
}

fn key(context: &Context) -> Result<(), CommandError> {
    let seed: [u8; 32] = context.entropy.bytes();
    let key = SealKey::from_seed(&seed).map_err(|error| CommandError::new(Exit::Failed, error.to_string()))?;
    let (secret, public) = (hex::encode(seed), key.public());
    if context.output.json {
        let document = json!({"key": secret, "public_key": public.to_string(), "id": public.id().to_string()});
        return Ok(context.output.document(&document)?);
    }
    context.output.line(format!("TEAMSTER_AUDIT_KEY={secret}"))?;
    context.output.line(format!("public key {public} (id {})", public.id()))?;
    note("keep the first line where only schedulers and workers read it: audit: { key: env:TEAMSTER_AUDIT_KEY }");
    Ok(())
}
