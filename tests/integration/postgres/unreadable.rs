//! Rows that this version cannot read.

use anyhow::Result;
use async_trait::async_trait;
use common::id::TaskId;
use suite::conformance::unreadable::{self, Rows};
use suite::servers::postgres;
use tokio_postgres::Client;

use super::{bench, client};

/// The tables, changed behind the store's back.
struct Behind(Client);

#[async_trait]
impl Rows for Behind {
    async fn write_event(&self, task: TaskId, text: &str) -> Result<()> {
        let sql = "UPDATE journal SET event = $2 WHERE task = $1 AND seq = 1";
        self.0.execute(sql, &[&task.as_uuid(), &text]).await?;
        Ok(())
    }

    async fn write_head(&self, task: TaskId, text: &str) -> Result<()> {
        self.0.execute("UPDATE tasks SET head = $2 WHERE id = $1", &[&task.as_uuid(), &text]).await?;
        Ok(())
    }

    async fn head(&self, task: TaskId) -> Result<String> {
        Ok(self.0.query_one("SELECT head FROM tasks WHERE id = $1", &[&task.as_uuid()]).await?.get(0))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_whose_journal_cannot_be_read_is_a_dead_letter_and_stops_no_other() -> Result<()> {
    let url = postgres::place();
    unreadable::a_journal(&bench(&url).await?, &Behind(client(&url).await?)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_whose_head_cannot_be_read_is_a_dead_letter_and_stops_no_other() -> Result<()> {
    let url = postgres::place();
    unreadable::a_head(&bench(&url).await?, &Behind(client(&url).await?)).await
}
