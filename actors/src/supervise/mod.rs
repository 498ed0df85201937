//! Supervision: an actor that panics comes back, made anew by its factory.
//!
//! Why our own: `actix::Supervisor` does not survive a panic and restarts with the old state. A panic in a handler unwinds
//! through the actor's context and drops the actor; [`guard::ExitGuard`], a field of every supervised actor, tells the
//! supervisor which it was. Never set `panic = "abort"`.

pub mod backoff;
pub mod guard;
pub mod supervisor;

pub use backoff::{Backoff, RestartBudget};
pub use guard::{Exit, ExitGuard};
pub use supervisor::{Supervised, failing, supervise};
