//! The metrics as Prometheus reads them, with what the store counts for all processes.

use prometheus::{Encoder, TextEncoder};

use super::{Metrics, family};
use crate::clock::Timestamp;
use crate::store::{Queue, Reading};

/// The content type of the text format.
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

impl Metrics {
    /// Sets what the store says of its queues, at its time `now`.
    pub fn show_queues(&self, queues: &[Queue], now: Timestamp) {
        self.queue_depth.reset();
        self.queue_paused.reset();
        self.queue_oldest_ready.reset();
        for queue in queues {
            let name = queue.name.as_str();
            if self.queues.admit(name) != name {
                continue;
            }
            for (state, count) in &queue.depth {
                self.queue_depth.set([name, state.as_str()], family::float(*count));
            }
            self.queue_paused.set([name], f64::from(u8::from(queue.paused)));
            let age = queue.oldest_ready.map_or(0.0, |since| now.since(since).as_secs_f64());
            self.queue_oldest_ready.set([name], age);
        }
    }

    /// Sets how much of budgets is used: by what is configured, not by the values of labels.
    pub fn show_budgets<'b>(&self, budgets: impl IntoIterator<Item = (&'b str, &'b Reading)>) {
        let mut most: std::collections::BTreeMap<&str, f64> = std::collections::BTreeMap::new();
        for (name, reading) in budgets {
            if let Some(limit) = reading.limit.filter(|limit| *limit > 0) {
                let used = family::float(reading.used) / family::float(limit);
                let known = most.entry(name).or_default();
                *known = known.max(used);
            }
        }
        self.budget_used.reset();
        for (name, used) in most {
            self.budget_used.set([name], used);
        }
    }

    /// Everything in the text format of Prometheus, version 0.0.4.
    ///
    /// # Errors
    /// When a metric cannot be written as text.
    pub fn encode(&self) -> Result<String, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}
