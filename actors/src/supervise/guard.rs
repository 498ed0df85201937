//! Tells a supervisor how an actor ended, whatever way it ended: the guard is a field of the actor and reports when dropped.

use std::fmt;

/// How an actor ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It stopped by itself, or its arbiter did.
    Stopped,
    /// A handler panicked.
    Panicked,
}

/// Reports the actor's end once, when it is dropped with the actor.
pub struct ExitGuard(Option<Box<dyn FnOnce(Exit) + Send>>);

impl ExitGuard {
    /// Calls `report` when dropped. It must not block and must not panic: it may run while a panic unwinds.
    pub fn new(report: impl FnOnce(Exit) + Send + 'static) -> Self {
        Self(Some(Box::new(report)))
    }
}

impl Drop for ExitGuard {
    fn drop(&mut self) {
        let exit = if std::thread::panicking() { Exit::Panicked } else { Exit::Stopped };
        if let Some(report) = self.0.take() {
            report(exit);
        }
    }
}

impl fmt::Debug for ExitGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ExitGuard")
    }
}
