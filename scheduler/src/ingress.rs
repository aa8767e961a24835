//! Webhooks: who may send, what a delivery says, and which pipelines want it;
//! and `amqp`: messages of other systems.
//!
//! One file a sender. A sender verifies the raw bytes before anything parses
//! them; [`trigger`] decides what becomes of the event. All of it is pure: the
//! route in the API reads and submits.

pub(crate) mod amqp;
pub mod github;
pub mod hmac;
pub mod sender;
pub mod trigger;
