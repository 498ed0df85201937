//! Tells a supervisor how an actor ended, whatever way it ended: the guard is a field of the actor and reports when dropped.

use std::fmt;

/// How an actor ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It stopped by itself, or its arbiter did.
    Stopped,
    /// A handler panicked.
    Panicked,
    /// It gave up and wants to be made anew ([`ExitGuard::mark_failed`]): a fence refused it, its partition has to be read again.
    Failed,
}

/// Reports the actor's end once, when it is dropped with the actor.
pub struct ExitGuard {
    report: Option<Box<dyn FnOnce(Exit) + Send>>,
    has_failed: bool,
}

impl ExitGuard {
    /// Calls `report` when dropped. It must not block and must not panic: it may run while a panic unwinds.
    pub fn new(report: impl FnOnce(Exit) + Send + 'static) -> Self {
        Self { report: Some(Box::new(report)), has_failed: false }
    }

    /// When the actor stops now, it is not done: its supervisor makes it anew.
    pub fn mark_failed(&mut self) {
        self.has_failed = true;
    }
}

impl Drop for ExitGuard {
    fn drop(&mut self) {
        let exit = match (std::thread::panicking(), self.has_failed) {
            (true, _) => Exit::Panicked,
            (false, true) => Exit::Failed,
            (false, false) => Exit::Stopped,
        };
        if let Some(report) = self.report.take() {
            report(exit);
        }
    }
}

impl fmt::Debug for ExitGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ExitGuard")
    }
}
