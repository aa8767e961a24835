//! Real servers for tests: Redis, Postgres and `RabbitMQ`, started by the tests
//! themselves on free loopback ports with their own data folders. One that
//! happens to run on the machine is never used.
//!
//! - **Shared**: `redis::place()`, `postgres::place()` and `rabbitmq::place()`
//!   give each test an empty place (a prefix, a schema) in one server per
//!   test process, started at first use. `TEAMSTER_TEST_REDIS`,
//!   `TEAMSTER_TEST_POSTGRES` and `TEAMSTER_TEST_AMQP` name servers to use instead.
//! - **Private**: `Server::start` in each module is for tests that kill it,
//!   stop it or need settings of their own.
//!
//! A server that is not installed fails the test and says what to install.
//! Everything here blocks its thread until the server answers: a second for
//! most, five for `RabbitMQ`.

pub mod certificate;
pub mod everything;
pub mod place;
pub mod port;
pub mod postgres;
mod process;
pub mod rabbitmq;
pub mod redis;
pub mod s3;

/// Makes aws-lc-rs the TLS of this process, as the program's `main` does.
/// Safe to call again; call it before the first TLS connection of a test.
pub fn install_crypto_provider() {
    // It fails only if one is installed already, which is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
