//! Ports that break one invariant on purpose, so that the oracle is known to see it.

/// What is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// Nothing.
    None,
    /// I1: the log moves the position and now and then loses a step's last delivery.
    TornStep,
    /// I1: a flush of states moves the position and forgets its rows.
    RowsForgotten,
    /// I2: a step's deliveries are written in reverse.
    StepReversed,
    /// I4: a flush of cursors forgets its dead letters.
    LettersForgotten,
    /// I4: a cursor is stored as if it had no holes.
    HolesForgotten,
    /// I8: neither the log nor the database look at who writes.
    NoFence,
}
