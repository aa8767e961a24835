//! The person of the demo, who decides what waits for one.

use anyhow::Result;
use scheduler::wire::{Approval, ApprovalPage, Decide, Decision, Signalled};

use crate::client::Client;
use crate::error::Exit;

/// Every so many leads is turned down.
const REJECTED_EVERY: usize = 9;

/// How many are decided at one look.
const AT_ONCE: usize = 4;

/// Somebody who reads quickly.
#[derive(Debug, Default)]
pub(super) struct Person {
    pub(super) approved: usize,
    pub(super) rejected: usize,
}

impl Person {
    /// Decides what is open now.
    pub(super) async fn tick(&mut self, client: &Client) -> Result<()> {
        let page: ApprovalPage = client.get("/v1/approvals", &[("limit", AT_ONCE.to_string())]).await?;
        for approval in page.approvals {
            let body = self.decide(&approval);
            let approved = body.decision == Decision::Approve;
            match client.post::<Signalled>(&format!("/v1/approvals/{}", approval.id), &body).await {
                Ok(_) if approved => self.approved += 1,
                Ok(_) => self.rejected += 1,
                // Decided before: the list was read before its task took the decision up.
                Err(error) if matches!(error.exit, Exit::Refused | Exit::NotFound) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn decide(&self, approval: &Approval) -> Decide {
        let is_lead = approval.pipeline.as_str() == "lead-intake";
        let refuse = is_lead && (self.approved + self.rejected) % REJECTED_EVERY == REJECTED_EVERY - 1;
        let (decision, comment) =
            if refuse { (Decision::Reject, Some("not a fit for us".to_owned())) } else { (Decision::Approve, None) };
        Decide { decision, comment, edits: None, by: Some("demo".to_owned()), digest: approval.digest.clone() }
    }
}
