//! Sending to actors: the only file that calls actix's `send` and `try_send` (I3).
//!
//! Facts of actix 0.13.5 that shape it: a mailbox's capacity counts per cloned address, so every sender has room of its own;
//! `do_send` ignores the capacity and is banned by clippy. The policy when full is the caller's choice between two verbs:
//! [`Mailbox::offer`] gives the message back, [`Mailbox::deliver`] waits, and the wait is a metric.

use std::time::Instant;

use actix::dev::ToEnvelope;
use actix::{Actor, Addr, Handler, Message, Recipient};
use metrics::counter;

use crate::metrics::MAILBOX_WAIT_MICROSECONDS;

/// Where to send messages of one kind.
pub struct Mailbox<M>
where
    M: Message + Send,
    M::Result: Send,
{
    recipient: Recipient<M>,
    /// Metric label: which kind of actor listens.
    actor: &'static str,
}

impl<M> Clone for Mailbox<M>
where
    M: Message + Send,
    M::Result: Send,
{
    fn clone(&self) -> Self {
        Self { recipient: self.recipient.clone(), actor: self.actor }
    }
}

impl<M> std::fmt::Debug for Mailbox<M>
where
    M: Message + Send,
    M::Result: Send,
{
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mailbox").field("actor", &self.actor).finish_non_exhaustive()
    }
}

/// The message was not taken; it comes back whole.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused<M> {
    /// The mailbox holds all that this sender may put there.
    Full(M),
    /// The actor is gone.
    Closed(M),
}

/// The actor is gone, or stopped before it answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the actor is gone")]
pub struct Closed;

/// Puts a message into the mailbox of an actor whose address is at hand, or gives it back at once.
pub fn offer_to<A, M>(addr: &Addr<A>, message: M) -> Result<(), Refused<M>>
where
    A: Actor + Handler<M>,
    A::Context: ToEnvelope<A, M>,
    M: Message + Send + 'static,
    M::Result: Send,
{
    addr.try_send(message).map_err(Refused::from)
}

/// Waits for room in the mailbox of an actor whose address is at hand, and for the answer.
///
/// # Errors
/// [`Closed`] when the actor is gone; the message may or may not have been handled.
pub async fn deliver_to<A, M>(addr: &Addr<A>, message: M) -> Result<M::Result, Closed>
where
    A: Actor + Handler<M>,
    A::Context: ToEnvelope<A, M>,
    M: Message + Send + 'static,
    M::Result: Send,
{
    addr.send(message).await.map_err(|_| Closed)
}

impl<M> From<actix::dev::SendError<M>> for Refused<M> {
    fn from(error: actix::dev::SendError<M>) -> Self {
        match error {
            actix::dev::SendError::Full(message) => Self::Full(message),
            actix::dev::SendError::Closed(message) => Self::Closed(message),
        }
    }
}

impl<M> Mailbox<M>
where
    M: Message + Send + 'static,
    M::Result: Send,
{
    /// The mailbox of `addr`; `actor` is its kind's metric label.
    pub fn of<A>(addr: &Addr<A>, actor: &'static str) -> Self
    where
        A: Actor + Handler<M>,
        A::Context: ToEnvelope<A, M>,
    {
        Self { recipient: addr.clone().recipient(), actor }
    }

    /// Puts the message in, or gives it back at once.
    pub fn offer(&self, message: M) -> Result<(), Refused<M>> {
        self.recipient.try_send(message).map_err(Refused::from)
    }

    /// Waits for room and for the answer.
    ///
    /// # Errors
    /// [`Closed`] when the actor is gone; the message may or may not have been handled.
    pub async fn deliver(&self, message: M) -> Result<M::Result, Closed> {
        let started_at = Instant::now();
        let answer = self.recipient.send(message).await.map_err(|_| Closed);
        counter!(MAILBOX_WAIT_MICROSECONDS, "actor" => self.actor)
            .increment(u64::try_from(started_at.elapsed().as_micros()).unwrap_or(u64::MAX));
        answer
    }

    /// Whether the actor still runs.
    pub fn is_open(&self) -> bool {
        self.recipient.connected()
    }
}
