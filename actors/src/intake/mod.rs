//! Intake: who sent it, and is it durable. Sources say "accepted" only after [`Gate`] did.
//!
//! Reading order: [`gate`] (the port), [`directory`] (the bounded cache of senders), [`limit`] (who is heard too often), [`unknown`] (who was heard but is not registered).

pub mod directory;
pub mod gate;
pub mod limit;
pub mod metrics;
#[cfg(test)]
mod tests;
pub mod unknown;

pub use directory::Directory;
pub use gate::{Gate, GateConfig};
pub use limit::{EntranceLimit, LimitConfig};
pub use unknown::UnknownLister;
