//! A history as it is played: each operation is asked of all stores at once, and
//! what the first one answers is what the others must answer.

mod append;
mod model;
mod operation;
mod submit;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use common::clock::{ManualClock, Timestamp};
use common::store::{Cursor, Filter};
use common::task::Head;
use futures::future::try_join_all;

use self::model::Model;
use super::answer::Answer;
use super::chance::Chance;
use super::request::Request;
use super::side::{Place, Setting, Side};

/// Characters of an answer that a trace and a difference show.
const SHOWN: usize = 2_000;
const SHOWN_LINES: usize = 6;
const SHOWN_IN_TRACE: usize = 300;

/// Where two stores differ.
#[derive(Debug)]
pub(super) struct Difference {
    /// The number of the operation, from 0; as many as there are at the end, where everything is compared.
    pub(super) operation: usize,
    /// What was asked, in a word.
    pub(super) kind: &'static str,
    /// What was asked and what was answered.
    pub(super) said: String,
    /// The number of the store that differs from the first.
    pub(super) store: usize,
    /// All requests up to there, and the answers of the first store.
    pub(super) trace: Vec<String>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct History {
    sides: Vec<Side>,
    clock: ManualClock,
    model: Model,
    broker: bool,
    counts: BTreeMap<&'static str, usize>,
    trace: Vec<String>,
    /// The store that was found to differ, and in what.
    differs: (usize, &'static str),
}

impl History {
    pub(super) async fn open(stores: &[(&'static str, fn() -> Place)], setting: Setting) -> Result<Self> {
        let clock = ManualClock::at(Timestamp::from_millis(1_800_000_000_000));
        let sides = stores.iter().map(|(name, place)| Side::open(name, *place, setting, &clock));
        let sides = try_join_all(sides).await?;
        let model = Model::new(clock.clone());
        Ok(Self {
            sides,
            clock,
            model,
            broker: setting.broker,
            counts: BTreeMap::new(),
            trace: Vec::new(),
            differs: (1, ""),
        })
    }

    /// Plays all operations, then compares everything that is there.
    pub(super) async fn play(
        mut self,
        operations: &[u64],
    ) -> Result<Result<BTreeMap<&'static str, usize>, Box<Difference>>> {
        for (number, seed) in operations.iter().enumerate() {
            if let Some(said) = self.operation(*seed).await? {
                return Ok(Err(self.difference(number, said)));
            }
        }
        let trace = self.trace.clone();
        let compared = self.compare_all().await?;
        self.trace = trace;
        match compared {
            Some(said) => Ok(Err(self.difference(operations.len(), said))),
            None => Ok(Ok(self.counts)),
        }
    }

    fn difference(self, operation: usize, said: String) -> Box<Difference> {
        let (store, kind) = self.differs;
        Box::new(Difference { operation, kind, said, store, trace: self.trace })
    }

    /// Plays one operation; a text where the answers differ.
    async fn operation(&mut self, seed: u64) -> Result<Option<String>> {
        let chance = Chance::new(seed);
        self.clock.advance(Duration::from_millis(1 + chance.below(50) as u64));
        let process = chance.below(2);
        let Some(request) = operation::resolve(&mut self.model, self.sides[0].store(), &chance).await? else {
            return Ok(None);
        };
        let mut requests = std::collections::VecDeque::from([request]);
        while let Some(request) = requests.pop_front() {
            let answer = match self.ask(process, &request).await? {
                Ok(answer) => answer,
                Err(said) => return Ok(Some(said)),
            };
            requests.extend(self.model.learn(&request, &answer));
        }
        Ok(None)
    }

    /// Asks all stores: the answer that they agree on, or what they answered.
    async fn ask(&mut self, process: usize, request: &Request) -> Result<Result<Answer, String>> {
        let asked = self.sides.iter_mut().map(|side| side.ask(process, request));
        let answers = try_join_all(asked).await?;
        let kind = format!("{}: {}", request.kind(), answers[0].kind());
        self.count(&kind);
        let number = self.trace.len();
        let question = format!("{number}: process {process}: {}", shown(&format!("{request:?}"), SHOWN_IN_TRACE));
        for (number, (side, answer)) in self.sides.iter().zip(&answers).enumerate().skip(1) {
            if *answer != answers[0] {
                self.differs = (number, request.kind());
                return Ok(Err(format!(
                    "the stores differ in their answers to\n{request:?}\nof process {process}\n{}",
                    unequal(self.sides[0].name, &answers[0], side.name, answer)
                )));
            }
        }
        self.trace.push(format!("{question}\n    -> {}", shown(&format!("{:?}", answers[0]), SHOWN_IN_TRACE)));
        Ok(Ok(answers.into_iter().next().unwrap_or(Answer::Done)))
    }

    fn count(&mut self, kind: &str) {
        if let Some(count) = self.counts.get_mut(kind) {
            *count += 1;
        } else {
            // One for each kind of request and answer, in a process that ends.
            self.counts.insert(String::leak(kind.to_owned()), 1);
        }
    }

    /// At the end everything is the same: journals, heads, queues, batches, hints; and heads are folds.
    async fn compare_all(&mut self) -> Result<Option<String>> {
        let mut requests = vec![Request::Queues, Request::Definitions];
        for task in self.model.tasks.clone() {
            requests.extend([Request::Head(task), Request::Journal { task, after: 0, limit: 10_000 }]);
            requests.push(Request::Chain(task));
        }
        for batch in self.model.batches.clone() {
            requests.push(Request::Batch(batch.clone()));
            requests.push(Request::BatchRows { batch, after: 0, limit: 10_000 });
        }
        for request in requests {
            if let Err(said) = self.ask(0, &request).await? {
                return Ok(Some(said));
            }
        }
        if let Some(said) = self.compare_list().await? {
            return Ok(Some(said));
        }
        if self.broker {
            return self.compare_hints().await;
        }
        Ok(None)
    }

    async fn compare_list(&mut self) -> Result<Option<String>> {
        let mut after: Option<Cursor> = None;
        loop {
            let request = Request::List { filter: Filter::default(), after, limit: 100 };
            let page = match self.ask(1, &request).await? {
                Ok(Answer::Page(page)) => page,
                Ok(other) => anyhow::bail!("a list is answered with {other:?}"),
                Err(said) => return Ok(Some(said)),
            };
            for head in &page.tasks {
                let journal = self.sides[0].store().journal(head.id, 0, 10_000).await?;
                ensure!(*head == Head::fold(head.id, &journal)?, "the head of task {} is not the fold", head.id);
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(None),
            }
        }
    }

    async fn compare_hints(&mut self) -> Result<Option<String>> {
        // Whatever was given a moment ago is given again.
        self.clock.advance(Duration::from_secs(3_600));
        if let Err(said) = self.ask(0, &Request::Unsent(Duration::from_secs(1_800))).await? {
            return Ok(Some(said));
        }
        let expected = self.sides[0].heard(0).await;
        for (number, side) in self.sides.iter().enumerate().skip(1) {
            let heard = side.heard(expected.lines().len()).await;
            if !without(&expected.lines(), &heard.lines()).is_empty() {
                self.differs = (number, "hints");
                let differ = unequal(self.sides[0].name, &expected, side.name, &heard);
                return Ok(Some(format!("doorbells heard other hints\n{differ}")));
            }
        }
        Ok(None)
    }
}

/// The lines that are not among the others, each counted as often as it is there.
fn without(lines: &[String], others: &[String]) -> Vec<String> {
    let mut others = others.to_vec();
    let mut only = lines.to_vec();
    only.retain(|line| match others.iter().position(|other| other == line) {
        Some(same) => {
            others.swap_remove(same);
            false
        }
        None => true,
    });
    only
}

/// What only one of two answers has; all of both, if they differ in their order.
fn unequal(first: &str, one: &Answer, second: &str, other: &Answer) -> String {
    let (one, other) = (one.lines(), other.lines());
    let only = |lines: &[String], not_in: &[String]| {
        let mut only = without(lines, not_in);
        if only.is_empty() && lines.len() == not_in.len() {
            only = lines.to_vec();
        }
        only.truncate(SHOWN_LINES);
        only.into_iter().map(|line| format!("    {}\n", shown(&line, SHOWN))).collect::<String>()
    };
    format!(
        "--- only {first} ({} lines) says:\n{}--- only {second} ({} lines) says:\n{}",
        one.len(),
        only(&one, &other),
        other.len(),
        only(&other, &one)
    )
}

fn shown(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
