//! State follows the log: changed devices are stored in coalesced rows, together with the state position, under the epoch.
//!
//! Reading order: [`flush`] (one cycle over the changed devices), [`failures`] (the list of failed decodes, which may be lossy).

pub mod failures;
pub mod flush;

pub use failures::FailureLister;
