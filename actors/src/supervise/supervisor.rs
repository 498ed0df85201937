//! A supervisor for one actor: it keeps the factory, waits for the actor's end, and makes it anew after a backoff.
//!
//! An actor that stops by itself is done. One that panics or gives up comes back; one that does so more often than its budget allows comes
//! back too, at the longest backoff, and shows in a metric, in the log and in `/readyz` ([`failing`]): ending the process would let one bad record end it (I7).

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix::{Actor, Addr};
use metrics::{counter, gauge};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tracing::{error, warn};

use super::{Backoff, Exit, ExitGuard, RestartBudget};
use crate::metrics::{ACTOR_PANICS, ACTOR_RESTARTS, ACTORS_OVER_BUDGET};

/// Waits between restarts of a supervised actor.
const BACKOFF: Backoff = Backoff { base: Duration::from_millis(50), max: Duration::from_secs(30) };
/// Restarts within [`BUDGET_PERIOD`] that are nothing to worry about.
const BUDGET_RESTARTS: usize = 10;
const BUDGET_PERIOD: Duration = Duration::from_secs(600);

/// How many actors of each name are over their budget, in this process.
static FAILING: Mutex<BTreeMap<String, usize>> = Mutex::new(BTreeMap::new());

fn failing_now() -> MutexGuard<'static, BTreeMap<String, usize>> {
    FAILING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Names of the actors that fail again and again.
pub fn failing() -> Vec<String> {
    failing_now().keys().cloned().collect()
}

/// Counts an actor as failing while it lives.
struct Failing(&'static str, String);

impl Failing {
    fn new(kind: &'static str, name: &str) -> Self {
        gauge!(ACTORS_OVER_BUDGET, "actor" => kind).increment(1.0);
        *failing_now().entry(name.to_owned()).or_default() += 1;
        Self(kind, name.to_owned())
    }
}

impl Drop for Failing {
    fn drop(&mut self) {
        gauge!(ACTORS_OVER_BUDGET, "actor" => self.0).decrement(1.0);
        let mut failing = failing_now();
        if let Some(num) = failing.get_mut(&self.1) {
            *num -= 1;
            if *num == 0 {
                failing.remove(&self.1);
            }
        }
    }
}

/// A supervised actor: its address changes with every restart.
pub struct Supervised<A: Actor> {
    current: Rc<RefCell<Option<Addr<A>>>>,
    is_released: Rc<Cell<bool>>,
    released: Rc<Notify>,
}

impl<A: Actor> Clone for Supervised<A> {
    fn clone(&self) -> Self {
        Self {
            current: Rc::clone(&self.current),
            is_released: Rc::clone(&self.is_released),
            released: Rc::clone(&self.released),
        }
    }
}

impl<A: Actor> std::fmt::Debug for Supervised<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Supervised")
    }
}

impl<A: Actor> Supervised<A> {
    /// The actor's address now; `None` between a panic and the restart, and after it stopped for good.
    pub fn addr(&self) -> Option<Addr<A>> {
        self.current.borrow().clone().filter(Addr::connected)
    }

    /// Ends the supervision, and the actor with it unless somebody else holds its address.
    pub fn release(&self) {
        self.is_released.set(true);
        self.current.borrow_mut().take();
        self.released.notify_one();
    }
}

/// Starts an actor on this arbiter and keeps it alive. `make` starts it with the guard inside; `kind` is the metric label.
pub fn supervise<A: Actor>(
    kind: &'static str,
    name: String,
    mut make: impl FnMut(ExitGuard) -> Addr<A> + 'static,
) -> Supervised<A> {
    let current = Rc::new(RefCell::new(None));
    let is_released = Rc::new(Cell::new(false));
    let released = Rc::new(Notify::new());
    let supervised = Supervised {
        current: Rc::clone(&current),
        is_released: Rc::clone(&is_released),
        released: Rc::clone(&released),
    };
    let mut start = move || {
        let (report, ended) = oneshot::channel();
        let addr = make(ExitGuard::new(move |exit| {
            let _ = report.send(exit);
        }));
        (addr, ended)
    };
    let (addr, mut ended) = start();
    *current.borrow_mut() = Some(addr);
    actix_rt::spawn(async move {
        let born_at = Instant::now();
        let mut budget = RestartBudget::new(BUDGET_RESTARTS, BUDGET_PERIOD);
        let mut num_failures = 0;
        let mut over_budget: Option<Failing> = None;
        loop {
            let started_at = Instant::now();
            let exit = ended.await.unwrap_or(Exit::Stopped);
            *current.borrow_mut() = None;
            if exit == Exit::Stopped || is_released.get() {
                break;
            }
            if exit == Exit::Panicked {
                counter!(ACTOR_PANICS, "actor" => kind).increment(1);
            }
            num_failures = if started_at.elapsed() > BUDGET_PERIOD { 1 } else { num_failures + 1 };
            if budget.take(born_at.elapsed()) {
                over_budget = None;
            } else if over_budget.is_none() {
                over_budget = Some(Failing::new(kind, &name));
                error!(actor = kind, name, "an actor fails again and again, restarting at the longest backoff");
            }
            let wait = if over_budget.is_some() { BACKOFF.max } else { BACKOFF.random_delay(num_failures) };
            warn!(actor = kind, name, wait_ms = wait.as_millis() as u64, ?exit, "an actor failed and is made anew");
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = released.notified() => break,
            }
            let (addr, next_end) = start();
            *current.borrow_mut() = Some(addr);
            ended = next_end;
            counter!(ACTOR_RESTARTS, "actor" => kind).increment(1);
        }
    });
    supervised
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix::{Context, Handler, Message};

    use crate::mailbox::Mailbox;

    struct Fragile {
        generation: u32,
        _guard: ExitGuard,
    }
    impl Actor for Fragile {
        type Context = Context<Self>;
    }
    #[derive(Message)]
    #[rtype(result = "u32")]
    struct Poke {
        hard: bool,
    }
    impl Handler<Poke> for Fragile {
        type Result = u32;
        fn handle(&mut self, poke: Poke, _: &mut Self::Context) -> u32 {
            assert!(!poke.hard, "poked too hard");
            self.generation
        }
    }

    fn fragile() -> Supervised<Fragile> {
        named("test")
    }

    fn named(name: &str) -> Supervised<Fragile> {
        let mut generation = 0;
        supervise("fragile", name.to_owned(), move |guard| {
            generation += 1;
            Fragile { generation, _guard: guard }.start()
        })
    }

    #[actix::test]
    async fn a_panicked_actor_comes_back_made_anew() {
        tokio::time::pause();
        let supervised = fragile();
        let first = Mailbox::of(&supervised.addr().unwrap(), "fragile");
        assert_eq!(first.deliver(Poke { hard: false }).await, Ok(1));
        assert!(first.deliver(Poke { hard: true }).await.is_err());
        tokio::time::sleep(Duration::from_millis(200)).await;
        let second = Mailbox::of(&supervised.addr().unwrap(), "fragile");
        assert_eq!(second.deliver(Poke { hard: false }).await, Ok(2));
        assert!(!first.is_open());
    }

    #[actix::test]
    async fn an_actor_that_panics_for_ever_is_still_tried_at_the_longest_backoff() {
        tokio::time::pause();
        let supervised = named("panics for ever");
        let is_named = || failing().iter().any(|name| name == "panics for ever");
        assert!(!is_named());
        for _ in 0..40 {
            if let Some(addr) = supervised.addr() {
                let _ = Mailbox::of(&addr, "fragile").deliver(Poke { hard: true }).await;
            }
            tokio::time::sleep(Duration::from_secs(40)).await;
        }
        let addr = supervised.addr().expect("it is alive again");
        let generation = Mailbox::of(&addr, "fragile").deliver(Poke { hard: false }).await;
        assert_eq!(generation, Ok(41));
        assert!(is_named(), "{:?}", failing());
        drop(addr);
        supervised.release();
        tokio::time::sleep(Duration::from_secs(40)).await;
        assert!(!is_named(), "{:?}", failing());
    }
}
