//! The store around a store: the suite for all stores once more, with *every*
//! value kept as a blob. Nobody outside may notice.

use std::sync::Arc;

use async_trait::async_trait;
use common::store::{BlobPlace, Offload, SqliteStore, Store, StoreError, StoreOptions};
use suite::conformance::{Backend, Place};

/// A file, and a folder beside it if the values go there.
struct Everything {
    directory: tempfile::TempDir,
    folder: bool,
}

#[async_trait]
impl Backend for Everything {
    async fn open(&self, mut options: StoreOptions) -> Result<Arc<dyn Store>, StoreError> {
        options.blobs.threshold = 0;
        if self.folder {
            options.blobs.place = BlobPlace::Folder(self.directory.path().join("blobs"));
        }
        let inner = SqliteStore::open(&self.directory.path().join("teamster.db"), options.clone())?;
        Ok(Offload::around(inner, &options)?)
    }
}

fn place(folder: bool) -> Place {
    Box::new(Everything { directory: tempfile::tempdir().expect("a temporary directory"), folder })
}

mod in_the_store {
    fn fresh() -> suite::conformance::Place {
        super::place(false)
    }

    suite::conformance! { @all fresh;
        submit: accepted_is_readable, the_same_key_is_the_same_task, fifty_equal_keys_at_once_make_one_task,
            a_refused_call_leaves_nothing, supersede_asks_a_running_one;
        take: highest_priority_first_then_oldest, claim_takes_the_named_if_ready, two_stores_never_take_the_same_task,
            a_claim_carries_the_whole_journal;
        lease: a_zombie_is_refused_everything, a_stale_version_is_a_conflict, a_repeated_append_gets_the_same_answer,
            a_repeated_finish_gets_the_same_answer, an_illegal_append_changes_nothing, poison_is_found_out;
        question: a_decision_wakes_the_task, a_decision_while_running_is_made_once, an_outcome_is_resolved_once;
        children: a_parent_is_told, a_parent_that_runs_is_told_at_its_next_append,
            a_child_that_is_done_before_it_is_journaled, a_dead_parent_stops_its_children;
        dead_letter: a_failed_task_is_a_dead_letter, replay_makes_it_ready, a_dropped_one_is_gone;
        limit: too_many_submissions, too_large_an_input, too_large_a_signal;
        restore: all_is_as_it_was, a_second_time_changes_nothing, they_go_on;
        durability: everything_is_there_after_reopening, a_lease_survives_a_restart, two_handles_see_the_same;
        history: a_random_history_is_a_fold,
    }
}

mod in_a_folder {
    fn fresh() -> suite::conformance::Place {
        super::place(true)
    }

    suite::conformance! { @all fresh;
        submit: accepted_is_readable;
        lease: a_repeated_append_gets_the_same_answer;
        children: a_parent_that_runs_is_told_at_its_next_append;
        durability: everything_is_there_after_reopening,
    }
}
