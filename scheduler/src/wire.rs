//! What goes over the wire: the requests and answers of the HTTP API.
//!
//! The server writes these types and clients read them, so that both agree by
//! construction. Requests refuse unknown keys; answers may grow new ones.

mod approval;
mod batch;
mod halt;
mod hook;
mod meter;
mod pipeline;
mod problem;
mod signal;
mod task;

pub use approval::{Approval, ApprovalPage, Decide, Decision};
pub use batch::{Batch, BatchReceipt, BatchResult};
pub use halt::{BeginHalt, Halt, HaltList};
pub use hook::{Delivered, DeliveredTask, Health};
pub use meter::{Meter, MeterList};
pub use pipeline::{
    Applied, AppliedPipeline, Apply, NamedDefinition, PipelineList, PipelineSummary, Queue, QueueList, QueuePaused,
};
pub use problem::{Complaint, Problem};
pub use signal::{Cancel, Erased, Raise, RefusedReplay, Replay, ReplayMany, ReplayedMany, Resolve, Signalled};
pub use task::{
    DeadLetterPage, JournalPage, Step, StepState, SubmitTask, Submitted, Task, TaskPage, TaskSummary, UnknownOutcome,
};
