//! The end of a run: compares what the oracle saw with what the engine's counters say, and names every broken promise. Pure.
//!
//! Promises: nothing accepted is missing; first arrivals are in order; nothing arrives that nobody sent; accepted + offered again
//! = delivered + dead + expired + discarded + pending for every target; delivered and dead are what the receiver took and refused.
//! A repeat is a broken promise too, unless the scenario loses answers or breaks the engine.

use crate::admin_api::TargetState;
use crate::oracle::DutyFigures;

/// What is known of one target at the end.
#[derive(Clone, Debug)]
pub struct TargetEnd {
    pub name: String,
    /// Sum over its duties.
    pub figures: DutyFigures,
    /// `None` when the engine could not be asked.
    pub status: Option<TargetState>,
    /// Its deliveries need not settle within the run.
    pub is_dead: bool,
    /// It was asked to begin again.
    pub was_rewound: bool,
    /// Requests whose headers were not what the target is registered with.
    pub num_bad_headers: u64,
}

impl TargetEnd {
    /// Obligations that were not met and are not safely pending either.
    pub fn num_missing(&self) -> u64 {
        if !self.is_dead {
            return self.figures.num_open;
        }
        let num_pending = self.status.as_ref().map_or(0, |s| s.counters.pending);
        self.figures.num_open.saturating_sub(num_pending)
    }

    /// Whether the engine's counters have caught up with what the receiver saw.
    pub fn is_settled(&self) -> bool {
        self.failures(true).is_empty()
    }

    /// Every promise that is broken for this target.
    pub fn failures(&self, may_repeat: bool) -> Vec<String> {
        let (name, f) = (&self.name, &self.figures);
        let mut failures = Vec::new();
        let mut fail = |count: u64, what: &str| {
            if count > 0 {
                failures.push(format!("{name}: {count} {what}"));
            }
        };
        fail(self.num_missing(), "deliveries are missing");
        fail(f.num_out_of_order, "first arrivals are out of order");
        fail(f.num_unexpected, "deliveries arrived that nobody sent there");
        if !may_repeat {
            fail(f.num_repeated, "deliveries arrived twice without a reason");
        }
        let Some(status) = &self.status else {
            failures.push(format!("{name}: the engine does not tell its state"));
            return failures;
        };
        let c = &status.counters;
        if !c.is_conserved() {
            failures.push(format!(
                "{name}: conservation is broken: accepted {} + offered again {} != delivered {} + dead {} + expired {} + \
                 discarded {} + pending {}",
                c.accepted, c.offered_again, c.delivered, c.dead, c.expired, c.discarded, c.pending
            ));
        }
        let mut fail = |count: u64, what: &str| {
            if count > 0 {
                failures.push(format!("{name}: {count} {what}"));
            }
        };
        fail(c.expired, "deliveries fell out of the log");
        fail(c.discarded, "deliveries were discarded");
        if self.was_rewound {
            fail(u64::from(c.offered_again == 0), "rewinds offered nothing again");
            fail(c.offered_again.saturating_sub(f.num_repeated), "deliveries were offered again and did not come");
        } else {
            fail(c.offered_again, "deliveries were offered again and nobody asked for it");
        }
        // Where repeats may be, the engine counts one that the network sent again as a delivery of its own.
        let num_delivered_max = f.num_first + if may_repeat { f.num_repeated } else { 0 };
        if !(f.num_first..=num_delivered_max).contains(&c.delivered) {
            failures.push(format!(
                "{name}: the engine counts {} delivered, the receiver took {}",
                c.delivered, f.num_first
            ));
        }
        if c.dead != f.num_refused {
            failures.push(format!(
                "{name}: the engine counts {} dead letters, the receiver refused {}",
                c.dead, f.num_refused
            ));
        }
        if self.num_bad_headers > 0 {
            failures.push(format!(
                "{name}: {} requests lacked Idempotency-Key, Content-Type or Authorization, or had a wrong one",
                self.num_bad_headers
            ));
        }
        if !self.is_dead && c.pending > 0 {
            failures.push(format!("{name}: {} deliveries are still pending", c.pending));
        }
        failures
    }

    /// What is worth a look without breaking a promise.
    pub fn warnings(&self, may_repeat: bool) -> Vec<String> {
        let mut warnings = Vec::new();
        if may_repeat && self.figures.num_repeated > 0 {
            warnings.push(format!(
                "{}: {} deliveries arrived again, as they may here",
                self.name, self.figures.num_repeated
            ));
        }
        warnings
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin_api::Counters;

    fn state(counters: Counters) -> TargetState {
        TargetState { counters, ..TargetState::default() }
    }

    fn good() -> TargetEnd {
        let counters = Counters { accepted: 10, delivered: 8, dead: 2, ..Counters::default() };
        TargetEnd {
            name: "hub".into(),
            figures: DutyFigures { num_first: 8, num_refused: 2, ..DutyFigures::default() },
            status: Some(state(counters)),
            is_dead: false,
            was_rewound: false,
            num_bad_headers: 0,
        }
    }

    #[test]
    fn a_run_that_kept_its_promises_has_no_failures() {
        assert_eq!(good().failures(false), Vec::<String>::new());
        assert!(good().is_settled());
    }

    #[test]
    fn every_broken_promise_is_named() {
        type Breaks = fn(&mut TargetEnd);
        let broken: [(&str, Breaks); 11] = [
            ("missing", |t| t.figures.num_open = 1),
            ("out of order", |t| t.figures.num_out_of_order = 1),
            ("nobody sent", |t| t.figures.num_unexpected = 1),
            ("twice", |t| t.figures.num_repeated = 1),
            ("fell out", |t| t.status.as_mut().unwrap().counters.expired = 1),
            ("nobody asked", |t| t.status.as_mut().unwrap().counters.offered_again = 1),
            ("conservation", |t| t.status.as_mut().unwrap().counters.accepted = 11),
            ("the receiver took", |t| t.figures.num_first = 7),
            ("the receiver refused", |t| t.figures.num_refused = 1),
            ("Idempotency-Key", |t| t.num_bad_headers = 1),
            ("does not tell", |t| t.status = None),
        ];
        for (word, breaks) in broken {
            let mut target = good();
            breaks(&mut target);
            let failures = target.failures(false);
            assert!(failures.iter().any(|f| f.contains(word)), "{word}: {failures:?}");
        }
    }

    #[test]
    fn repeats_are_a_note_where_the_scenario_makes_them() {
        let mut target = good();
        target.figures.num_repeated = 3;
        assert!(target.failures(true).is_empty());
        assert_eq!(target.warnings(true).len(), 1);
    }

    #[test]
    fn what_a_dead_target_is_owed_must_be_pending() {
        let mut target = good();
        target.is_dead = true;
        target.figures.num_open = 5;
        target.status =
            Some(state(Counters { accepted: 15, delivered: 8, dead: 2, pending: 5, ..Counters::default() }));
        assert!(target.failures(false).is_empty());
        target.figures.num_open = 6;
        assert_eq!(target.num_missing(), 1, "one of them is neither there nor pending");
    }
}
