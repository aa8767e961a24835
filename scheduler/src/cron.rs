//! Schedules: which times of a schedule have come, and the tasks for them.
//!
//! [`ticks`] is pure. `tick` is the shell: it may run in any number of
//! schedulers at once, because the key of each task names its schedule and time.

use std::time::Duration;

use common::clock::Timestamp;
use common::id::{Digest, IdempotencyKey};
use common::pipeline::model::{Missed, Pipeline, ScheduleTrigger, Trigger};
use common::store::StoreError;
use croner::Cron;
use croner::parser::{CronParser, Seconds};
use jiff::tz::TimeZone;

use crate::app::App;
use common::submission::NewTask;

/// A time that passed longer ago than this has been missed: shorter pauses (a
/// restart, a slow store) only make it late.
pub const LATE: Duration = Duration::from_secs(60);
/// The most times that are made up for.
pub const MISSED: usize = 1_000;
/// The first window that is searched back from now.
const WINDOW: Duration = Duration::from_secs(3_600);

/// A schedule that cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum InvalidSchedule {
    /// The expression is no cron expression.
    #[error("{0:?} is not a cron expression: {1}")]
    Cron(String, String),
    /// The time zone is not known on this machine.
    #[error("{0:?} is not a time zone that this machine knows")]
    TimeZone(String),
}

/// The times of a schedule after `last` and up to `now` that get a task, oldest
/// first: all that are at most [`LATE`] late, and of the missed ones those that
/// `missed` wants, at most the newest [`MISSED`].
///
/// In a gap of daylight saving time, a fixed time runs at the first moment after
/// it; in an overlap, it runs once. What repeats by the hour or oftener follows
/// real time.
pub fn ticks(schedule: &ScheduleTrigger, last: Timestamp, now: Timestamp) -> Result<Vec<Timestamp>, InvalidSchedule> {
    let (cron, zone) = parse(schedule)?;
    let on_time = Timestamp::from_millis(now.as_millis().saturating_sub(millis(LATE)));
    let floor = if schedule.missed == Missed::Skip { last.max(on_time) } else { last };
    let mut window = WINDOW;
    let mut found = loop {
        let start = Timestamp::from_millis(now.as_millis().saturating_sub(millis(window))).max(floor);
        let found = between(&cron, &zone, start, now);
        if start <= floor || found.len() >= MISSED {
            break found;
        }
        window *= 2;
    };
    found.drain(..found.len().saturating_sub(MISSED));
    if schedule.missed == Missed::Once {
        let missed = found.iter().take_while(|tick| **tick < on_time).count();
        found.drain(..missed.saturating_sub(1));
    }
    Ok(found)
}

/// The first time of a schedule after `after`; none if there is none within a century.
pub fn next(schedule: &ScheduleTrigger, after: Timestamp) -> Result<Option<Timestamp>, InvalidSchedule> {
    let (cron, zone) = parse(schedule)?;
    Ok(cron.find_next_occurrence(&after.to_jiff().to_zoned(zone), false).ok().map(|at| at.timestamp().into()))
}

fn parse(schedule: &ScheduleTrigger) -> Result<(Cron, TimeZone), InvalidSchedule> {
    let cron = CronParser::builder()
        .seconds(Seconds::Optional)
        .build()
        .parse(&schedule.cron)
        .map_err(|error| InvalidSchedule::Cron(schedule.cron.clone(), error.to_string()))?;
    let zone = TimeZone::get(&schedule.timezone).map_err(|_| InvalidSchedule::TimeZone(schedule.timezone.clone()))?;
    Ok((cron, zone))
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// The times after `start` and up to `end`.
fn between(cron: &Cron, zone: &TimeZone, start: Timestamp, end: Timestamp) -> Vec<Timestamp> {
    let mut found = Vec::new();
    let mut at = start.to_jiff().to_zoned(zone.clone());
    while let Ok(tick) = cron.find_next_occurrence(&at, false) {
        let time = Timestamp::from(tick.timestamp());
        // An occurrence that does not move on would be a fault of the search: it must not hang this loop.
        if time > end || tick <= at {
            break;
        }
        found.push(time);
        at = tick;
    }
    found
}

/// The name under which a schedule is served: another expression, zone or
/// input is another schedule, and starts from when it is first seen.
fn name(pipeline: &Pipeline, schedule: &ScheduleTrigger) -> String {
    let what = serde_json::json!([schedule.cron, schedule.timezone, schedule.input]);
    format!("{}:{}", pipeline.name, Digest::of(what.to_string().as_bytes()).short())
}

/// Submits what all schedules of all current pipelines owe up to `now`. What
/// goes wrong with one schedule does not keep the others back.
pub(crate) async fn tick(app: &App, now: Timestamp) -> Result<(), StoreError> {
    for pipeline in app.catalog().all().await?.iter() {
        for trigger in &pipeline.triggers {
            let Trigger::Schedule(schedule) = trigger else { continue };
            if let Err(error) = serve(app, pipeline, schedule, now).await {
                tracing::warn!(pipeline = %pipeline.name, cron = schedule.cron, %error, "a schedule is not served");
            }
        }
    }
    Ok(())
}

/// Why a schedule was not served this time.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error(transparent)]
    Schedule(#[from] InvalidSchedule),
    #[error(transparent)]
    Store(#[from] StoreError),
}

async fn serve(app: &App, pipeline: &Pipeline, schedule: &ScheduleTrigger, now: Timestamp) -> Result<(), ServeError> {
    let name = name(pipeline, schedule);
    let Some(last) = app.store().schedule(&name).await? else {
        return Ok(app.store().serve_schedule(&name, now).await?);
    };
    let ticks = ticks(schedule, last, now)?;
    let mut submissions = Vec::with_capacity(ticks.len());
    for tick in &ticks {
        let key = IdempotencyKey::new(format!("cron:{name}:{tick}")).ok();
        match app.submission(pipeline, NewTask { input: schedule.input.clone(), key, ..NewTask::default() }) {
            Ok(submission) => submissions.push(submission),
            Err(complaints) => {
                // It will not fit the next time either: say so, and go on with the schedule.
                let why = complaints.first().map(|c| format!("{}: {}", c.pointer, c.message)).unwrap_or_default();
                tracing::error!(pipeline = %pipeline.name, why, "the input of a schedule does not fit its pipeline");
            }
        }
    }
    if !submissions.is_empty() {
        app.store().submit(submissions).await?;
    }
    match ticks.last() {
        Some(served) => Ok(app.store().serve_schedule(&name, *served).await?),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn schedule(cron: &str, timezone: &str, missed: Missed) -> ScheduleTrigger {
        ScheduleTrigger { cron: cron.to_owned(), timezone: timezone.to_owned(), missed, input: json!({}) }
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn found(cron: &str, zone: &str, missed: Missed, last: &str, now: &str) -> Vec<String> {
        let ticks = ticks(&schedule(cron, zone, missed), at(last), at(now)).unwrap();
        ticks.iter().map(|tick| tick.to_string().replace(".000Z", "Z")).collect()
    }

    #[test]
    fn a_time_that_has_come_is_found_once() {
        let (before, tick, after) = ("2026-03-02T05:59:59Z", "2026-03-02T06:00:00Z", "2026-03-02T06:00:30Z");
        let weekday_mornings = "0 7 * * 1-5";
        assert_eq!(found(weekday_mornings, "Europe/Berlin", Missed::Skip, before, after), [tick]);
        assert_eq!(found(weekday_mornings, "Europe/Berlin", Missed::Skip, before, tick), [tick]);
        assert!(found(weekday_mornings, "Europe/Berlin", Missed::Skip, tick, after).is_empty());
    }

    #[test]
    fn missed_times_are_skipped_run_once_or_all_run() {
        let (last, now) = ("2026-03-02T00:00:00Z", "2026-03-02T05:00:10Z");
        let on_time = "2026-03-02T05:00:00Z";
        assert_eq!(found("0 * * * *", "UTC", Missed::Skip, last, now), [on_time]);
        assert_eq!(found("0 * * * *", "UTC", Missed::Once, last, now), ["2026-03-02T04:00:00Z", on_time]);
        assert_eq!(found("0 * * * *", "UTC", Missed::All, last, now).len(), 5);
    }

    #[test]
    fn no_more_than_a_thousand_missed_times_are_made_up_for() {
        let all = found("* * * * * *", "UTC", Missed::All, "2020-01-01T00:00:00Z", "2026-03-02T05:00:00Z");
        assert_eq!(all.len(), MISSED);
        assert_eq!(all.last().map(String::as_str), Some("2026-03-02T05:00:00Z"));
    }

    #[test]
    fn a_fixed_time_in_the_gap_of_spring_runs_right_after_it() {
        // Berlin went from 02:00 to 03:00 on 2026-03-29.
        let ticks = found("30 2 * * *", "Europe/Berlin", Missed::All, "2026-03-28T12:00:00Z", "2026-03-29T12:00:00Z");
        assert_eq!(ticks, ["2026-03-29T01:00:00Z"]);
    }

    #[test]
    fn a_fixed_time_in_the_overlap_of_autumn_runs_once() {
        // Berlin went from 03:00 back to 02:00 on 2026-10-25.
        let ticks = found("30 2 * * *", "Europe/Berlin", Missed::All, "2026-10-24T12:00:00Z", "2026-10-25T12:00:00Z");
        assert_eq!(ticks, ["2026-10-25T00:30:00Z"]);
    }

    #[test]
    fn what_repeats_by_the_quarter_of_an_hour_follows_real_time_through_the_overlap() {
        let ticks = found("*/15 * * * *", "Europe/Berlin", Missed::All, "2026-10-24T23:59:00Z", "2026-10-25T01:59:00Z");
        assert_eq!(ticks.len(), 8);
    }

    #[test]
    fn what_is_no_schedule_is_an_error() {
        for (cron, zone) in [("61 * * * *", "UTC"), ("", "UTC"), ("* * * * *", "Mars/Olympus")] {
            assert!(
                ticks(&schedule(cron, zone, Missed::Skip), at("2026-01-01T00:00:00Z"), at("2026-01-01T00:00:01Z"))
                    .is_err()
            );
        }
    }

    proptest! {
        /// Looking often or seldom finds the same times.
        #[test]
        fn ticks_do_not_depend_on_how_often_one_looks(
            start in 1_740_000_000_000_i64..1_800_000_000_000,
            hours in 1_i64..96,
            cuts in proptest::collection::vec(0.0_f64..1.0, 0..6),
            cron in prop_oneof![Just("30 2 * * *"), Just("*/20 * * * *"), Just("0 */2 * * *"), Just("0 0 1 * *")],
        ) {
            let schedule = schedule(cron, "Europe/Berlin", Missed::All);
            let end = start + hours * 3_600_000;
            #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "any point between will do")]
            let mut points: Vec<i64> = cuts.iter().map(|cut| start + ((end - start) as f64 * cut) as i64).collect();
            points.sort_unstable();
            points.push(end);
            let whole = ticks(&schedule, Timestamp::from_millis(start), Timestamp::from_millis(end)).unwrap();
            let mut pieces = Vec::new();
            let mut last = start;
            for point in points {
                pieces.extend(ticks(&schedule, Timestamp::from_millis(last), Timestamp::from_millis(point)).unwrap());
                last = point;
            }
            prop_assert_eq!(whole, pieces);
        }
    }
}
