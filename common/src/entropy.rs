//! Randomness: one source of it, handed to the shells that need ids and tokens.
//!
//! Decisions take random bytes or numbers as arguments; only shells hold an
//! [`Entropy`], and tests hold one that they seeded.

use std::fmt;
use std::sync::Mutex;

use rand::rngs::{StdRng, SysRng};
use rand::{Rng, SeedableRng, TryRng};

/// Where a shell gets random bytes from.
pub trait Entropy: Send + Sync + fmt::Debug {
    /// Fills a buffer.
    fn fill(&self, buffer: &mut [u8]);
}

impl dyn Entropy {
    /// Some random bytes.
    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.fill(&mut bytes);
        bytes
    }

    /// A number in `[0, 1)`.
    pub fn unit(&self) -> f64 {
        // 53 bits fill the mantissa exactly.
        #[expect(clippy::cast_precision_loss, reason = "the value has 53 bits")]
        let mantissa = (u64::from_le_bytes(self.bytes()) >> 11) as f64;
        #[expect(clippy::cast_precision_loss, reason = "a power of two is exact")]
        let range = (1_u64 << 53) as f64;
        mantissa / range
    }
}

/// The machine's cryptographic source, through a generator that it seeded.
pub struct SystemEntropy(Mutex<StdRng>);

impl SystemEntropy {
    /// Seeds a generator from the operating system.
    ///
    /// # Errors
    /// When the operating system has no randomness to give.
    pub fn new() -> Result<Self, std::io::Error> {
        let mut seed = [0; 32];
        SysRng.try_fill_bytes(&mut seed).map_err(std::io::Error::other)?;
        Ok(Self(Mutex::new(StdRng::from_seed(seed))))
    }
}

impl fmt::Debug for SystemEntropy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SystemEntropy")
    }
}

impl Entropy for SystemEntropy {
    fn fill(&self, buffer: &mut [u8]) {
        fill_locked(&self.0, buffer);
    }
}

/// A generator that gives the same bytes for the same seed: tests and simulation.
#[derive(Debug)]
pub struct SeededEntropy(Mutex<StdRng>);

impl SeededEntropy {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(StdRng::seed_from_u64(seed)))
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, buffer: &mut [u8]) {
        fill_locked(&self.0, buffer);
    }
}

fn fill_locked(generator: &Mutex<StdRng>, buffer: &mut [u8]) {
    // A generator cannot be left half-changed by a panic in a way that matters.
    generator.lock().unwrap_or_else(std::sync::PoisonError::into_inner).fill_bytes(buffer);
}
