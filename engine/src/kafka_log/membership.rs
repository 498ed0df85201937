//! What this node owns, as its parts see it: which steps may be written, what a revocation has to wait for, what is told to the stages.
//!
//! Order matters twice (I8). A transaction names a generation that was read *before* it asks here what is owned: what was given up in between
//! is left out, and what is given up later is refused by the generation. And a revocation takes ownership away first and then waits for the
//! transaction under way.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use metrics::gauge;
use sluse_schema::partition::PartitionId;
use sluse_schema::port::log::{Assignment, AssignmentDone};
use tokio::sync::Notify;

use super::lease::Lease;
use super::metrics::PARTITIONS_OWNED;

#[derive(Debug, Default)]
struct State {
    /// With the number of the assignment that brought it: what was known before that is void.
    owned: BTreeMap<PartitionId, u64>,
    num_assignments: u64,
    has_joined: bool,
    in_transaction: BTreeSet<PartitionId>,
    news: VecDeque<Assignment>,
}

/// See the head of this file.
#[derive(Debug, Default)]
pub struct Membership {
    state: Mutex<State>,
    transaction_ended: Condvar,
    has_news: Notify,
    pub lease: Arc<Lease>,
}

/// Which partitions a transaction may write for.
#[derive(Debug)]
pub enum Admission {
    /// Those that are ours, each with the number of its assignment; until [`Membership::end_transaction`].
    Owned(BTreeMap<PartitionId, u64>),
    /// The group has not answered yet since this node started.
    NotJoined,
}

impl Membership {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These are ours from now on. Also called with nothing, when the group has nothing for us yet.
    pub fn assigned(&self, partitions: Vec<PartitionId>) {
        let mut state = self.lock();
        state.has_joined = true;
        state.num_assignments += 1;
        let number = state.num_assignments;
        state.owned.extend(partitions.iter().map(|partition| (*partition, number)));
        gauge!(PARTITIONS_OWNED).set(state.owned.len() as f64);
        if !partitions.is_empty() {
            state.news.push_back(Assignment::Assigned(partitions));
        }
        drop(state);
        self.has_news.notify_one();
    }

    /// These are to be given up: tells the stages, and returns when they are done and no transaction writes for them, at the latest at
    /// `deadline`. `false` when that came first.
    pub fn revoke(&self, partitions: &[PartitionId], deadline: Instant) -> bool {
        let (done, is_done) = std::sync::mpsc::channel();
        let done = AssignmentDone::new(move || {
            let _ = done.send(());
        });
        self.lock().news.push_back(Assignment::Revoked { partitions: partitions.to_vec(), done });
        self.has_news.notify_one();
        let left = |deadline: Instant| deadline.saturating_duration_since(Instant::now());
        let mut is_clean = is_done.recv_timeout(left(deadline)).is_ok();
        let mut state = self.disown(partitions);
        // A little longer than the deadline, if need be: a transaction under way ends soon.
        let deadline = deadline.max(Instant::now() + Duration::from_millis(500));
        while partitions.iter().any(|partition| state.in_transaction.contains(partition)) {
            if left(deadline).is_zero() {
                is_clean = false;
                break;
            }
            state =
                self.transaction_ended.wait_timeout(state, left(deadline)).unwrap_or_else(PoisonError::into_inner).0;
        }
        is_clean
    }

    /// These were given to somebody else already, or may have been: nothing more is written for them.
    pub fn lose(&self, partitions: &[PartitionId]) {
        let mut state = self.disown(partitions);
        state.news.push_back(Assignment::Lost(partitions.to_vec()));
        if state.owned.is_empty() {
            self.lease.end();
        }
        drop(state);
        self.has_news.notify_one();
    }

    fn disown(&self, partitions: &[PartitionId]) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        for partition in partitions {
            state.owned.remove(partition);
        }
        gauge!(PARTITIONS_OWNED).set(state.owned.len() as f64);
        state
    }

    /// The group has answered what was sent at `sent_at` for `partitions`: renews the lease, unless one of them was lost meanwhile, since the
    /// answer may then be to a membership that is over. `false` in that case.
    pub fn renew_lease(&self, partitions: &[PartitionId], sent_at: Instant, lasts: Duration) -> bool {
        let state = self.lock();
        let is_ours = partitions.iter().all(|partition| state.owned.contains_key(partition));
        if is_ours {
            self.lease.renew(sent_at, lasts);
        }
        is_ours
    }

    /// What is owned now.
    pub fn owned(&self) -> Vec<PartitionId> {
        self.lock().owned.keys().copied().collect()
    }

    /// Begins a transaction for those of `partitions` that are ours.
    pub fn begin_transaction(&self, partitions: impl Iterator<Item = PartitionId>) -> Admission {
        let mut state = self.lock();
        if !state.has_joined {
            return Admission::NotJoined;
        }
        let owned: BTreeMap<_, _> =
            partitions.filter_map(|partition| Some((partition, *state.owned.get(&partition)?))).collect();
        state.in_transaction.extend(owned.keys().copied());
        Admission::Owned(owned)
    }

    /// The transaction has ended, either way.
    pub fn end_transaction(&self) {
        self.lock().in_transaction.clear();
        self.transaction_ended.notify_all();
    }

    /// The next change, in order.
    pub async fn next_assignment(&self) -> Assignment {
        loop {
            let notified = self.has_news.notified();
            if let Some(news) = self.lock().news.pop_front() {
                return news;
            }
            notified.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P0: PartitionId = PartitionId(0);
    const P1: PartitionId = PartitionId(1);

    fn admitted(membership: &Membership) -> Vec<PartitionId> {
        match membership.begin_transaction([P0, P1].into_iter()) {
            Admission::Owned(owned) => owned.into_keys().collect(),
            Admission::NotJoined => panic!("it has joined"),
        }
    }

    #[tokio::test]
    async fn a_revocation_waits_for_the_stages_and_for_the_transaction_under_way() {
        let membership = Arc::new(Membership::default());
        assert!(matches!(membership.begin_transaction([P0].into_iter()), Admission::NotJoined));
        membership.assigned(vec![P0, P1]);
        assert_eq!(admitted(&membership), [P0, P1]);
        let revoking = std::thread::spawn({
            let membership = Arc::clone(&membership);
            move || membership.revoke(&[P0], Instant::now() + Duration::from_secs(20))
        });
        assert!(matches!(membership.next_assignment().await, Assignment::Assigned(_)));
        let Assignment::Revoked { partitions, done } = membership.next_assignment().await else { panic!() };
        assert_eq!(partitions, [P0]);
        assert!(!revoking.is_finished());
        drop(done);
        while membership.owned() != [P1] {
            tokio::task::yield_now().await;
        }
        assert!(!revoking.is_finished(), "a transaction still writes for it");
        membership.end_transaction();
        assert!(revoking.join().unwrap());
        assert_eq!(admitted(&membership), [P1]);
    }

    #[tokio::test]
    async fn stages_that_do_not_answer_hold_a_revocation_up_to_its_deadline_only() {
        let membership = Membership::default();
        membership.assigned(vec![P0]);
        assert!(!membership.revoke(&[P0], Instant::now() + Duration::from_millis(20)));
        assert_eq!(admitted(&membership), []);
    }

    #[tokio::test]
    async fn what_is_lost_is_not_ours_at_once() {
        let membership = Membership::default();
        membership.assigned(vec![P0, P1]);
        membership.lease.renew(Instant::now(), Duration::from_secs(9));
        membership.lose(&[P0]);
        assert_eq!(admitted(&membership), [P1]);
        assert!(membership.lease.is_held());
        membership.lose(&[P1]);
        assert!(!membership.lease.is_held());
        // An answer to what was sent before that proves nothing any more.
        assert!(!membership.renew_lease(&[P0, P1], Instant::now(), Duration::from_secs(9)));
        assert!(!membership.lease.is_held());
        assert!(matches!(membership.next_assignment().await, Assignment::Assigned(_)));
        assert!(matches!(membership.next_assignment().await, Assignment::Lost(p) if p == [P0]));
    }
}
