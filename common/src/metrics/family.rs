//! Kinds of metrics, each with its labels in one order.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    CounterVec, Error, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry,
};

/// What all names begin with.
const PREFIX: &str = "teamster";

/// Makes metrics and registers them.
pub(super) struct Family<'r> {
    registry: &'r Registry,
    names: RefCell<BTreeSet<String>>,
}

/// Counts with labels.
#[derive(Debug)]
pub(super) struct Counters<const L: usize>(IntCounterVec);

/// Sums with labels, that only grow.
#[derive(Debug)]
pub(super) struct Sums<const L: usize>(CounterVec);

/// Times with labels.
#[derive(Debug)]
pub(super) struct Durations<const L: usize>(HistogramVec);

/// Values with labels, that are set.
#[derive(Debug)]
pub(super) struct Gauges<const L: usize>(GaugeVec);

impl<'r> Family<'r> {
    pub(super) fn new(registry: &'r Registry) -> Self {
        Self { registry, names: RefCell::default() }
    }

    /// The names of all that were made.
    pub(super) fn names(&self) -> BTreeSet<String> {
        self.names.borrow().clone()
    }

    fn register<C: Collector + Clone + 'static>(&self, made: Result<C, Error>) -> Result<C, Error> {
        let made = made?;
        self.registry.register(Box::new(made.clone()))?;
        self.names.borrow_mut().extend(made.desc().into_iter().map(|metric| metric.fq_name.clone()));
        Ok(made)
    }

    pub(super) fn counter(&self, name: &str, help: &str) -> Result<IntCounter, Error> {
        self.register(IntCounter::with_opts(Opts::new(name, help).namespace(PREFIX)))
    }

    pub(super) fn counters<const L: usize>(
        &self,
        name: &str,
        help: &str,
        labels: [&str; L],
    ) -> Result<Counters<L>, Error> {
        self.register(IntCounterVec::new(Opts::new(name, help).namespace(PREFIX), &labels)).map(Counters)
    }

    pub(super) fn sums<const L: usize>(&self, name: &str, help: &str, labels: [&str; L]) -> Result<Sums<L>, Error> {
        self.register(CounterVec::new(Opts::new(name, help).namespace(PREFIX), &labels)).map(Sums)
    }

    pub(super) fn gauges<const L: usize>(&self, name: &str, help: &str, labels: [&str; L]) -> Result<Gauges<L>, Error> {
        self.register(GaugeVec::new(Opts::new(name, help).namespace(PREFIX), &labels)).map(Gauges)
    }

    pub(super) fn duration(&self, name: &str, help: &str, buckets: &[f64]) -> Result<Histogram, Error> {
        let opts = HistogramOpts::new(name, help).namespace(PREFIX).buckets(buckets.to_vec());
        self.register(Histogram::with_opts(opts))
    }

    pub(super) fn durations<const L: usize>(
        &self,
        name: &str,
        help: &str,
        labels: [&str; L],
        buckets: &[f64],
    ) -> Result<Durations<L>, Error> {
        let opts = HistogramOpts::new(name, help).namespace(PREFIX).buckets(buckets.to_vec());
        self.register(HistogramVec::new(opts, &labels)).map(Durations)
    }
}

// As many values as there are labels: the only error of the calls below cannot come, and is none for a task.

impl<const L: usize> Counters<L> {
    pub(super) fn add(&self, labels: [&str; L], by: u64) {
        if let Ok(counter) = self.0.get_metric_with_label_values(&labels) {
            counter.inc_by(by);
        }
    }
}

impl<const L: usize> Sums<L> {
    pub(super) fn add(&self, labels: [&str; L], by: f64) {
        // A sum of a counter takes nothing negative, and nothing that is no number.
        if let Ok(sum) = self.0.get_metric_with_label_values(&labels)
            && by > 0.0
        {
            sum.inc_by(by);
        }
    }
}

impl<const L: usize> Durations<L> {
    pub(super) fn observe(&self, labels: [&str; L], took: Duration) {
        if let Ok(histogram) = self.0.get_metric_with_label_values(&labels) {
            histogram.observe(took.as_secs_f64());
        }
    }
}

impl<const L: usize> Gauges<L> {
    pub(super) fn set(&self, labels: [&str; L], value: f64) {
        if let Ok(gauge) = self.0.get_metric_with_label_values(&labels) {
            gauge.set(value);
        }
    }

    /// Forgets all values: what is not set again is gone.
    pub(super) fn reset(&self) {
        self.0.reset();
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of tasks are far below 2^53")]
pub(super) const fn float(count: u64) -> f64 {
    count as f64
}
