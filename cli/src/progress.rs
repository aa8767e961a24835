//! Progress on stderr: a bar on a terminal, a line now and then elsewhere.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::output::{count, note};

/// How far something is.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    what: &'static str,
    total: u64,
    /// The tenth that was last written as a line.
    told: u64,
    quiet: bool,
}

impl Progress {
    /// Of `total` things, named in the plural.
    pub(crate) fn new(what: &'static str, total: u64, quiet: bool) -> Self {
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::new(total);
            bar.set_style(style("{prefix:>10} [{bar:32}] {human_pos}/{human_len} {elapsed} {wide_msg}"));
            bar.set_prefix(what);
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Self { bar, what, total, told: 0, quiet }
    }

    /// Of `total` bytes.
    pub(crate) fn bytes(what: &'static str, total: u64, quiet: bool) -> Self {
        let progress = Self::new(what, total, quiet);
        if let Some(bar) = &progress.bar {
            bar.set_style(style("{prefix:>10} [{bar:32}] {bytes}/{total_bytes} {bytes_per_sec}"));
        }
        progress
    }

    /// The bar itself, to be moved from elsewhere; hidden where there is no terminal.
    pub(crate) fn handle(&self) -> ProgressBar {
        self.bar.clone().unwrap_or_else(ProgressBar::hidden)
    }

    /// So many are done; `message` says more.
    pub(crate) fn set(&mut self, done: u64, message: &str) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            bar.set_message(message.to_owned());
            return;
        }
        let tenth = (done * 10).checked_div(self.total).unwrap_or(10);
        if !self.quiet && tenth > self.told {
            self.told = tenth;
            note(format!("{}: {} of {} {message}", self.what, count(done), count(self.total)));
        }
    }

    /// A line above the bar.
    pub(crate) fn say(&self, text: impl AsRef<str>) {
        match &self.bar {
            Some(bar) => bar.suspend(|| note(&text)),
            None => note(text),
        }
    }

    /// It is over: the bar goes away.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}
