//! What caches of callers (tokens, API keys) go by: one number for the process, raised whenever rights may have changed.

use std::sync::atomic::{AtomicU64, Ordering};

/// The epoch of what is known of callers. What was loaded in an earlier one does not count any more.
#[derive(Debug, Default)]
pub struct CallersEpoch(AtomicU64);

impl CallersEpoch {
    /// The epoch now. Take it before loading, and keep what was loaded under it.
    pub fn now(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// Rights may have changed: users, groups, API keys, where an application belongs.
    pub fn raise(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }
}
