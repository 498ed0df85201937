//! Partitions that the group gave to nobody, and who is to do something about it. Pure: no Kafka, no clock.
//!
//! In a cooperative rebalance a partition first leaves its old owner and then, when that one asks for its new share, comes to the next.
//! An owner that dies between the two and comes back under its name within its session is given what it was to keep, without a
//! rebalance, and asks for nothing: the partition stays with nobody until something else moves the group. (A restart that meets the
//! rebalance after a node's return is enough.)
//!
//! So every node looks at the group now and then. A stable group that has shown the same orphans for longer than any revocation takes
//! is moved by one member, which leaves and joins again: the one with the fewest partitions; should it not, the next one after as long
//! again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use sluse_schema::partition::PartitionId;

/// The group as Kafka describes it: members by their client id, which has the node's name in it, with what each was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Picture {
    /// No rebalance is under way.
    pub is_stable: bool,
    pub members: BTreeMap<String, BTreeSet<PartitionId>>,
}

impl Picture {
    fn orphans(&self, num_partitions: u32) -> BTreeSet<PartitionId> {
        let is_owned = |partition: &PartitionId| self.members.values().any(|owned| owned.contains(partition));
        (0..num_partitions).map(PartitionId).filter(|partition| !is_owned(partition)).collect()
    }

    /// How many members would have to move the group before this one.
    fn rank(&self, member: &str) -> Option<usize> {
        let owned = self.members.get(member)?;
        let key = (owned.len(), member);
        Some(self.members.iter().filter(|(other, theirs)| (theirs.len(), other.as_str()) < key).count())
    }
}

/// What an assignment gives of `topic`, as the consumer protocol writes it: version (i16), topics (i32 of them), each its name (i16 of bytes)
/// and partitions (i32 of them, each i32); what comes behind is of no concern here. No bytes are
/// no partitions; `None` when it is anything else: then nobody knows what its member has.
pub fn partitions_of_assignment(bytes: &[u8], topic: &str) -> Option<BTreeSet<PartitionId>> {
    if bytes.is_empty() {
        return Some(BTreeSet::new());
    }
    fn int(rest: &mut &[u8]) -> Option<u32> {
        let (int, behind) = rest.split_first_chunk()?;
        *rest = behind;
        Some(u32::from_be_bytes(*int))
    }
    fn short(rest: &mut &[u8]) -> Option<u16> {
        let (int, behind) = rest.split_first_chunk()?;
        *rest = behind;
        Some(u16::from_be_bytes(*int))
    }
    let mut rest = bytes;
    let mut partitions = BTreeSet::new();
    short(&mut rest)?;
    for _ in 0..int(&mut rest)? {
        let len = usize::from(short(&mut rest)?);
        let (name, behind) = rest.split_at_checked(len)?;
        rest = behind;
        for _ in 0..int(&mut rest)? {
            let partition = PartitionId(int(&mut rest)?);
            if name == topic.as_bytes() {
                partitions.insert(partition);
            }
        }
    }
    Some(partitions)
}

/// See the head of this file.
#[derive(Debug)]
pub struct OrphanWatch {
    /// Our client id.
    member: String,
    num_partitions: u32,
    /// Longer than a revocation.
    patience: Duration,
    /// The picture with orphans that has not changed since then.
    seen: Option<(Picture, Instant)>,
}

impl OrphanWatch {
    pub fn new(member: &str, num_partitions: u32, patience: Duration) -> Self {
        Self { member: member.to_owned(), num_partitions, patience, seen: None }
    }

    /// Takes a look. Gives the partitions without an owner when this node is to leave the group and join it again for them.
    pub fn look(&mut self, picture: Picture, now: Instant) -> Option<BTreeSet<PartitionId>> {
        let orphans = picture.orphans(self.num_partitions);
        let rank = picture.rank(&self.member);
        let (Some(rank), true, false) = (rank, picture.is_stable, orphans.is_empty()) else {
            self.seen = None;
            return None;
        };
        let since = match &self.seen {
            Some((seen, since)) if *seen == picture => *since,
            _ => {
                self.seen = Some((picture, now));
                now
            }
        };
        let num_turns = u32::try_from(rank).unwrap_or(u32::MAX).saturating_add(1);
        if now.saturating_duration_since(since) < self.patience.saturating_mul(num_turns) {
            return None;
        }
        self.seen = None;
        Some(orphans)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);
    const NEVER: [u64; 0] = [];

    fn picture(is_stable: bool, members: &[(&str, &[u32])]) -> Picture {
        let members =
            members.iter().map(|(id, owned)| ((*id).to_owned(), owned.iter().copied().map(PartitionId).collect()));
        Picture { is_stable, members: members.collect() }
    }

    /// Looks each second for 35 seconds; the seconds at which `node_id` moves the group.
    fn moves(node_id: &str, at: impl Fn(u64) -> Picture) -> Vec<u64> {
        let (mut watch, start) = (OrphanWatch::new(node_id, 4, PATIENCE), Instant::now());
        (0..35).filter(|second| watch.look(at(*second), start + Duration::from_secs(*second)).is_some()).collect()
    }

    #[test]
    fn the_member_with_the_fewest_partitions_moves_first_and_the_next_when_it_does_not() {
        let group = |_| picture(true, &[("a", &[2, 3]), ("b", &[]), ("c", &[])]);
        assert_eq!(moves("b", group), [10, 21, 32]);
        assert_eq!(moves("c", group), [20]);
        assert_eq!(moves("a", group), [30]);
        assert_eq!(moves("d", group), NEVER, "it is no member");
    }

    #[test]
    fn an_assignment_is_read_and_anything_else_is_none() {
        let mut bytes = vec![0, 1, 0, 0, 0, 2, 0, 1, b'x', 0, 0, 0, 1, 0, 0, 0, 9];
        bytes.extend([0, 2, b'u', b'p', 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(partitions_of_assignment(&bytes, "up"), Some(BTreeSet::from([PartitionId(1), PartitionId(3)])));
        assert_eq!(partitions_of_assignment(&bytes, "other"), Some(BTreeSet::new()));
        assert_eq!(partitions_of_assignment(&[], "up"), Some(BTreeSet::new()));
        for torn in 1..bytes.len() - 4 {
            assert_eq!(partitions_of_assignment(&bytes[..torn], "up"), None, "{torn} bytes");
        }
        assert_eq!(partitions_of_assignment(&[0, 1, 0xff, 0xff, 0xff, 0xff], "up"), None);
    }

    #[test]
    fn what_is_missing_is_named() {
        let mut watch = OrphanWatch::new("a", 4, Duration::ZERO);
        let orphans = watch.look(picture(true, &[("a", &[1, 3])]), Instant::now());
        assert_eq!(orphans, Some(BTreeSet::from([PartitionId(0), PartitionId(2)])));
    }

    #[test]
    fn a_group_that_moves_by_itself_is_left_alone() {
        assert_eq!(moves("b", |_| picture(true, &[("a", &[0, 1, 2, 3]), ("b", &[])])), NEVER, "nothing is missing");
        assert_eq!(moves("b", |_| picture(false, &[("a", &[2]), ("b", &[])])), NEVER, "it is being shared out");
        let changing = |second| {
            picture(true, if second % 8 < 4 { &[("a", &[2, 3]), ("b", &[])] } else { &[("a", &[2]), ("b", &[])] })
        };
        assert_eq!(moves("b", changing), NEVER, "it has not looked the same for long enough");
    }
}
