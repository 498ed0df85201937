//! Which log this is, and what a position that was stored elsewhere means in it. Pure.
//!
//! An incarnation ends at every start that finds no clean marker. What was acknowledged is there then; what a reader may have
//! seen beyond the end (only a disk that lies, or a lost directory sync, could do that) is not, and its offsets hold other
//! records now. So the end of each incarnation is remembered, and positions of older ones are cut there.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sluse_schema::partition::PartitionId;
use sluse_schema::record::{LogIdentity, Offset, Position, Resolution, Topic};

/// Where the partitions of both topics ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ends {
    pub uplinks: Vec<Offset>,
    pub deliveries: Vec<Offset>,
}

impl Ends {
    fn get(&self, topic: Topic, partition: PartitionId) -> Option<Offset> {
        let ends = match topic {
            Topic::Uplinks => &self.uplinks,
            Topic::Deliveries => &self.deliveries,
        };
        ends.get(partition.0 as usize).copied()
    }
}

/// The store, its current incarnation, and how the earlier ones ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incarnations {
    pub identity: LogIdentity,
    /// By incarnation.
    pub ended: BTreeMap<u64, Ends>,
}

impl Incarnations {
    /// The first incarnation of a new store.
    pub fn new(store: String) -> Self {
        Self { identity: LogIdentity { store, incarnation: 1 }, ended: BTreeMap::new() }
    }

    /// The current incarnation ended here; the next one begins.
    pub fn raise(&mut self, ends: Ends) {
        self.ended.insert(self.identity.incarnation, ends);
        self.identity.incarnation += 1;
    }

    /// What `stored` means for a partition that holds `[start, end)` now.
    pub fn resolve(
        &self,
        topic: Topic,
        partition: PartitionId,
        stored: &Position,
        (start, end): (Offset, Offset),
    ) -> Resolution {
        let incarnation = stored.log.incarnation;
        if stored.log.store != self.identity.store || incarnation > self.identity.incarnation {
            return Resolution::OtherLog;
        }
        let end = if incarnation == self.identity.incarnation {
            end
        } else {
            // An incarnation whose end is not known cannot be told from another log.
            let Some(ended) = self.ended.get(&incarnation).and_then(|ends| ends.get(topic, partition)) else {
                return Resolution::OtherLog;
            };
            ended
        };
        let offset = stored.offset.min(end);
        if offset < start { Resolution::Expired { start } } else { Resolution::At(offset) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(store: &str, incarnation: u64, offset: u64) -> Position {
        Position { log: LogIdentity { store: store.into(), incarnation }, offset: Offset(offset) }
    }

    #[test]
    fn positions_are_cut_expired_or_foreign() {
        let mut log = Incarnations::new("embedded:a".into());
        log.raise(Ends { uplinks: vec![Offset(10)], deliveries: vec![Offset(3)] });
        log.raise(Ends { uplinks: vec![Offset(20)], deliveries: vec![Offset(30)] });
        assert_eq!(log.identity.incarnation, 3);
        let resolve = |topic, stored| log.resolve(topic, PartitionId(0), &stored, (Offset(5), Offset(50)));
        for (topic, stored, expected) in [
            (Topic::Uplinks, position("embedded:a", 1, 9), Resolution::At(Offset(9))),
            (Topic::Uplinks, position("embedded:a", 1, 12), Resolution::At(Offset(10))),
            (Topic::Uplinks, position("embedded:a", 2, 21), Resolution::At(Offset(20))),
            (Topic::Uplinks, position("embedded:a", 3, 49), Resolution::At(Offset(49))),
            (Topic::Uplinks, position("embedded:a", 3, 99), Resolution::At(Offset(50))),
            (Topic::Uplinks, position("embedded:a", 3, 4), Resolution::Expired { start: Offset(5) }),
            (Topic::Deliveries, position("embedded:a", 1, 12), Resolution::Expired { start: Offset(5) }),
            (Topic::Uplinks, position("embedded:a", 4, 9), Resolution::OtherLog),
            (Topic::Uplinks, position("embedded:a", 0, 9), Resolution::OtherLog),
            (Topic::Uplinks, position("embedded:b", 3, 9), Resolution::OtherLog),
        ] {
            assert_eq!(resolve(topic, stored.clone()), expected, "{topic:?} {stored:?}");
        }
    }
}
