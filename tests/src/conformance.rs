//! What every store must do: one suite for all backends.
//!
//! A backend's test gives a function that makes an empty place for data, and
//! [`conformance!`](crate::conformance!) makes one test of each case. Cases move
//! the store's clock by hand and never sleep. A case ends with
//! [`Bench::verify`]: every head equals the fold of its journal, and every
//! figure equals what counting the tasks gives.

pub mod audit;
pub mod batch;
pub mod bench;
pub mod blob;
pub mod cancel;
pub mod catalog;
pub mod children;
pub mod dead_letter;
pub mod durability;
pub mod halt;
pub mod history;
pub mod lease;
pub mod limit;
pub mod list;
pub mod meter;
pub mod outbox;
pub mod question;
pub mod ready;
pub mod restore;
pub mod retention;
pub mod session;
pub mod submit;
pub mod take;
pub mod timer;
pub mod unreadable;

use std::sync::Arc;

use async_trait::async_trait;
use common::store::{Store, StoreError, StoreOptions};

pub use bench::{Bench, Held};

/// An empty place for data, where stores can be opened: the same data each time.
#[async_trait]
pub trait Backend: Send + Sync {
    /// Opens a store as a process of its own would: it shares nothing with the others but the data.
    async fn open(&self, options: StoreOptions) -> Result<Arc<dyn Store>, StoreError>;
}

/// What a case gets.
pub type Place = Box<dyn Backend>;

/// Makes a test of each case for a backend: `conformance!(fresh)`, where `fresh()` gives a [`Place`].
#[macro_export]
macro_rules! conformance {
    ($fresh:ident) => {
        $crate::conformance! { @all $fresh;
            submit: accepted_is_readable, the_same_key_is_the_same_task, fifty_equal_keys_at_once_make_one_task,
                equal_keys_in_one_call_make_one_task, keys_belong_to_their_pipeline, a_repeated_call_makes_no_second_task,
                a_refused_call_leaves_nothing, supersede_cancels_the_older_of_the_group, supersede_asks_a_running_one,
                one_that_was_asked_stays_in_its_group_until_it_ended, a_replayed_one_belongs_to_its_group_again,
                supersede_within_one_call_leaves_the_newest, a_repeated_key_supersedes_nothing;
            take: highest_priority_first_then_oldest, at_most_as_many_as_asked, only_from_the_queues_named, from_every_queue_when_none_is_named,
                a_paused_queue_gives_nothing, queues_take_turns, a_rush_in_one_queue_starves_no_other,
                claim_takes_the_named_if_ready, two_stores_never_take_the_same_task, a_claim_carries_the_whole_journal;
            lease: a_lease_ends_exactly_at_its_time, renewal_extends, a_lost_lease_is_not_renewed,
                a_zombie_is_refused_everything, a_wrong_token_is_refused, a_stale_version_is_a_conflict,
                a_repeated_append_gets_the_same_answer, a_repeated_finish_gets_the_same_answer,
                a_repeated_append_is_answered_after_the_lease_is_gone, an_illegal_append_changes_nothing,
                release_makes_it_ready_again, an_expired_lease_makes_it_ready_again, poison_is_found_out,
                progress_is_no_poison, innocents_are_no_poison;
            timer: a_scheduled_task_becomes_ready_in_time, a_wait_ends_in_time, wake_ends_a_wait_early,
                due_is_limited_and_says_what_comes_next, a_wait_without_end_is_never_due;
            cancel: a_task_at_rest_is_cancelled_at_once, a_running_task_is_asked, a_cancelled_task_is_not_taken,
                done_is_not_cancelled, cancel_asked_twice_is_kept_once, an_unknown_task_is_not_found,
                a_request_is_taken_up_when_the_lease_is_lost;
            question: a_decision_wakes_the_task, private_values_change_nothing_but_the_journal, a_decision_is_made_once, a_decision_while_running_is_made_once,
                an_unknown_question_is_refused, a_decision_races_with_itself, an_outcome_is_resolved_once,
                an_answer_of_a_model_batch_is_taken_once, who_left_a_model_batch_takes_no_answer,
                renewal_says_that_signals_wait;
            children: a_parent_is_told, a_parent_that_runs_is_told_at_its_next_append,
                a_child_that_is_done_before_it_is_journaled, a_dead_parent_stops_its_children,
                grandchildren_stop_too, a_done_parent_gets_no_child, an_unknown_parent_gets_no_child,
                a_running_child_is_asked_to_stop, a_cancelled_child_is_told_as_cancelled;
            dead_letter: a_failed_task_is_a_dead_letter, replay_makes_it_ready, a_cancelled_task_is_replayed,
                what_lives_is_not_replayed, a_dropped_one_is_gone;
            list: newest_first_in_pages, filters_match, all_conditions_must_hold, waiting_for_a_person,
                an_empty_answer_has_no_next_page, queues_show_depth_and_age;
            limit: too_many_submissions, too_large_an_input, a_full_queue, a_full_journal, too_large_a_signal;
            retention: the_oldest_go_by_count, they_go_by_age, they_go_by_bytes, dead_letters_have_their_own_rule,
                the_key_goes_with_its_task, what_lives_is_kept, removal_is_limited, a_child_waits_for_its_parent;
            batch: rows_lead_to_tasks, a_batch_posted_again_makes_no_second_task, duplicates_are_told,
                rejected_rows_are_told, rows_come_in_pages, an_unknown_batch_is_refused, removed_rows_are_told,
                the_cost_is_summed, a_batch_that_is_over_goes, a_batch_goes_however_many_tasks_have_to;
            blob: kept_bytes_come_back, equal_content_is_kept_once, what_nobody_uses_goes_after_the_grace,
                tasks_share_it_and_the_last_takes_it_along, a_text_is_referred_to, an_event_cannot_refer_to_what_is_gone,
                a_parent_uses_what_its_child_answered, a_kept_signal_uses_its_value, what_is_elsewhere_is_condemned,
                bytes_belong_where_the_name_says, blobs_are_there_after_reopening;
            meter: what_was_used_is_what_counts, the_same_id_charges_once, settled_twice_counts_once, all_meters_or_none,
                fifty_racing_never_overspend, a_window_turns_in_time, windows_of_one_name_are_counted_apart,
                places_come_back, what_lapses_counts_its_worst_case, a_meter_is_held_back, what_is_over_goes,
                readings_are_by_name, impossible_reservations_are_refused, meters_survive_a_restart,
                places_are_given_in_line, a_level_is_news_once;
            session: a_session_is_kept_as_it_is, a_session_is_replaced_by_one, a_session_is_gone_when_its_time_is_over;
            halt: a_halt_is_seen_by_all, a_halt_is_lifted_and_ends, a_halt_begins_once,
                a_task_waits_for_the_end_of_a_halt;
            outbox: a_submit_rings, what_is_refused_is_silent, all_that_makes_ready_rings, a_hint_leads_to_a_claim,
                unsent_ones_are_given_after_their_age, unsent_ones_are_not_given_twice_within_their_age,
                sent_ones_are_kept_no_more, what_is_not_ready_has_no_hint, hints_survive_a_restart,
                without_a_broker_nothing_is_kept;
            restore: all_is_as_it_was, a_second_time_changes_nothing, they_go_on, families_and_groups_stay_together,
                keys_stay, rows_come_back_to_their_batch, what_is_no_journal_is_refused;
            audit: every_event_is_in_the_chain, a_long_journal_has_a_whole_chain, the_newest_event_is_sealed,
                all_that_an_operation_changes_is_sealed, a_chain_moves_with_its_task,
                erased_data_is_gone_and_the_chain_verifies, erased_is_erased, what_lives_is_not_erased;
            catalog: definitions_are_kept_by_digest, the_newest_is_current, schedules_never_go_back, the_store_is_well,
                a_look_says_what_it_found;
            ready: rings_for_what_is_there, rings_for_a_submit, rings_for_another_process, rings_when_a_queue_resumes,
                stays_silent_for_other_queues, can_be_dropped_at_any_time;
            durability: everything_is_there_after_reopening, a_lease_survives_a_restart, two_handles_see_the_same;
            history: a_random_history_is_a_fold,
        }
    };
    (@all $fresh:ident; $($verb:ident: $($case:ident),+ $(,)?);+) => {
        $(mod $verb {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() -> anyhow::Result<()> {
                    $crate::conformance::$verb::$case(super::$fresh()).await
                }
            )+
        })+
    };
}
