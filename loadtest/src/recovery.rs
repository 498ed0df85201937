//! How long a fault shows: from its beginning until nothing was late any more that receivers which answer at once should have had.
//! Late is what was sent [`LATE_AFTER_US`] ago or more, accepted or not: a sender that waits counts too.

use serde::Serialize;

/// Many times what a delivery takes when nothing is broken.
pub const LATE_AFTER_US: u64 = 1_000_000;

/// What became of one fault.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Recovery {
    pub fault: String,
    pub at_s: f64,
    /// From the fault until the last moment at which something was late; 0 when nothing ever was.
    pub late_for_s: f64,
}

/// Keeps the account. Times are microseconds of the run's clock. Pure.
#[derive(Debug, Default)]
pub struct RecoveryWatch {
    faults: Vec<Seen>,
}

#[derive(Debug)]
struct Seen {
    fault: String,
    load_s: f64,
    began_us: u64,
    late_until_us: u64,
}

impl RecoveryWatch {
    /// A fault begins, so many seconds into the load.
    pub fn begin(&mut self, fault: String, load_s: f64, now_us: u64) {
        self.faults.push(Seen { fault, load_s, began_us: now_us, late_until_us: now_us });
    }

    /// The oldest that is owed now was sent then. What is late is the newest fault's doing.
    pub fn look(&mut self, oldest_owed_us: Option<u64>, now_us: u64) {
        let is_late = oldest_owed_us.is_some_and(|sent_us| now_us.saturating_sub(sent_us) >= LATE_AFTER_US);
        if let Some(newest) = self.faults.last_mut()
            && is_late
        {
            newest.late_until_us = now_us;
        }
    }

    /// The account of every fault.
    pub fn recoveries(&self) -> Vec<Recovery> {
        let seconds = |us: u64| (us as f64 / 100_000.0).round() / 10.0;
        let recovery = |seen: &Seen| Recovery {
            fault: seen.fault.clone(),
            at_s: (seen.load_s * 10.0).round() / 10.0,
            late_for_s: seconds(seen.late_until_us - seen.began_us),
        };
        self.faults.iter().map(recovery).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lateness_is_the_newest_faults_and_ends_with_its_last_moment() {
        let mut watch = RecoveryWatch::default();
        watch.look(Some(0), 5_000_000);
        watch.begin("kill engine 0".into(), 5.0, 5_000_000);
        watch.look(Some(4_900_000), 5_100_000);
        watch.look(Some(4_900_000), 9_000_000);
        watch.look(Some(9_000_000), 9_100_000);
        watch.begin("kill engine 1".into(), 10.0, 10_000_000);
        watch.look(None, 11_000_000);
        let late: Vec<f64> = watch.recoveries().iter().map(|r| r.late_for_s).collect();
        assert_eq!(late, [4.0, 0.0]);
    }
}
