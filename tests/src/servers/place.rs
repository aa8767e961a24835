//! Names that no other test uses, so that tests share a server and nothing in it.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use common::entropy::{Entropy, SystemEntropy};

/// A name of at most 26 lower-case letters and digits that starts with a letter; another at each
/// call and in each process (a server named by an environment variable keeps what was in it).
pub fn unique_name() -> String {
    static PROCESS: LazyLock<String> = LazyLock::new(|| {
        let entropy: &dyn Entropy = &SystemEntropy::new().expect("the system gives random bytes");
        hex::encode(entropy.bytes::<8>())
    });
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("t{}n{:x}", *PROCESS, NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The same URL with one more query parameter, which must need no escaping.
pub fn with_parameter(url: &str, name: &str, value: &str) -> String {
    let separator = if url.contains('?') { '&' } else { '?' };
    format!("{url}{separator}{name}={value}")
}

/// The server that an environment variable names, if it does.
pub(super) fn named(variable: &str) -> Option<String> {
    std::env::var(variable).ok().filter(|url| !url.is_empty())
}
