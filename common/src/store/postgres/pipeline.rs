//! Statements that are sent without waiting for the answers of those before.

use futures::FutureExt;
use futures::future::BoxFuture;

use super::fault::Fault;

/// Sends each statement at once, in order, and waits for all answers at the end.
#[derive(Default)]
pub(super) struct Pipeline<'c>(Vec<Sent<'c>>);

enum Sent<'c> {
    Waiting(BoxFuture<'c, Result<(), Fault>>),
    Answered(Result<(), Fault>),
}

impl<'c> Pipeline<'c> {
    /// Sends a statement. It must be prepared: only then does it go out at the first poll, before those that follow.
    pub(super) async fn send(&mut self, statement: impl Future<Output = Result<(), Fault>> + Send + 'c) {
        let mut statement = statement.boxed();
        self.0.push(match futures::poll!(&mut statement) {
            std::task::Poll::Ready(answer) => Sent::Answered(answer),
            std::task::Poll::Pending => Sent::Waiting(statement),
        });
    }

    /// Waits for all answers. The first failure is the one that tells; the others follow from it.
    pub(super) async fn answers(self) -> Result<(), Fault> {
        let mut outcome = Ok(());
        for sent in self.0 {
            let answer = match sent {
                Sent::Waiting(statement) => statement.await,
                Sent::Answered(answer) => answer,
            };
            outcome = outcome.and(answer);
        }
        outcome
    }
}
