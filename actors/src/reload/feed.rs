//! Where the reloader is in the change events. Pure.
//!
//! Ids are given before their transactions commit, so an id may appear after a higher one. Every read therefore begins a stretch
//! below the newest id seen, and what was handed on already is left out. A scan's stretch is what came within the last two minutes; a
//! signal's is [`SIGNAL_STRETCH`] ids, so that registering thousands of devices does not read all of them again for each.

use std::collections::BTreeSet;

use sluse_schema::change::ChangeEvent;

/// Ids remembered at most; beyond it the oldest count as settled.
const NUM_REMEMBERED_MAX: usize = 50_000;

/// Ids below the newest one that a signal looks at again; what appears further below waits for the next scan.
const SIGNAL_STRETCH: i64 = 500;

/// Which change events were handed on.
#[derive(Debug, Default)]
pub struct FeedPosition {
    /// Everything up to it is settled.
    settled: i64,
    /// Handed on, above `settled`.
    handed_on: BTreeSet<i64>,
    /// The newest id at the last scan: settled at the next one.
    newest_at_scan: i64,
}

impl FeedPosition {
    /// Begins after `newest`: what is configured up to there is read anyway.
    pub fn new(newest: i64) -> Self {
        Self { settled: newest, handed_on: BTreeSet::new(), newest_at_scan: newest }
    }

    /// Where the read of a scan begins.
    pub fn after_for_scan(&self) -> i64 {
        self.settled
    }

    /// Where the read after a signal begins.
    pub fn after_for_signal(&self) -> i64 {
        let newest = self.handed_on.last().copied().unwrap_or(self.settled);
        self.settled.max(newest - SIGNAL_STRETCH)
    }

    /// Leaves out what was handed on before.
    pub fn take_new(&mut self, events: Vec<ChangeEvent>) -> Vec<ChangeEvent> {
        let fresh: Vec<ChangeEvent> = events.into_iter().filter(|e| self.handed_on.insert(e.id)).collect();
        while self.handed_on.len() > NUM_REMEMBERED_MAX {
            if let Some(oldest) = self.handed_on.pop_first() {
                self.settled = oldest;
            }
        }
        fresh
    }

    /// A scan interval has passed: what was newest at the scan before is settled now.
    pub fn scanned(&mut self) {
        let newest = self.handed_on.last().copied().unwrap_or(self.settled);
        self.settled = self.settled.max(self.newest_at_scan);
        self.newest_at_scan = newest;
        self.handed_on = self.handed_on.split_off(&(self.settled + 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluse_schema::change::ChangedEntity;

    fn events(ids: &[i64]) -> Vec<ChangeEvent> {
        ids.iter().map(|id| ChangeEvent { id: *id, entity: ChangedEntity::Device, entity_id: *id }).collect()
    }

    fn ids(events: &[ChangeEvent]) -> Vec<i64> {
        events.iter().map(|e| e.id).collect()
    }

    #[test]
    fn an_id_that_appears_after_a_higher_one_is_not_missed_and_none_comes_twice() {
        let mut position = FeedPosition::new(10);
        assert_eq!(ids(&position.take_new(events(&[11, 13]))), [11, 13]);
        assert_eq!(position.after_for_scan(), 10);
        assert_eq!(ids(&position.take_new(events(&[11, 12, 13]))), [12]);
        position.scanned();
        assert_eq!(position.after_for_scan(), 10);
        position.scanned();
        assert_eq!(position.after_for_scan(), 13);
        assert_eq!(ids(&position.take_new(events(&[14]))), [14]);
    }

    #[test]
    fn a_signal_reads_a_short_stretch_again_and_a_scan_all_of_it() {
        let mut position = FeedPosition::new(0);
        position.take_new(events(&(1..=2_000).collect::<Vec<_>>()));
        assert_eq!((position.after_for_scan(), position.after_for_signal()), (0, 1_500));
        position.scanned();
        position.scanned();
        assert_eq!((position.after_for_scan(), position.after_for_signal()), (2_000, 2_000));
    }
}
