//! How fast a receiver that was away gets what it missed, and what that costs the others: from its first delivery after the end of
//! each of its phases until nothing of it is late any more. How long the engine took to notice is told beside it. Pure.

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::oracle::DutyFigures;
use crate::recovery::LATE_AFTER_US;
use crate::report::quantile_ms;
use crate::scenario::Target;

/// One receiver that caught up.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CatchUp {
    pub target: String,
    /// From the end of its phase until something reached it: the rest of the circuit breaker's wait.
    pub waited_s: f64,
    /// Deliveries that it was owed then.
    pub num_owed: u64,
    pub took_s: f64,
    /// What reached it meanwhile, what was sent meanwhile included.
    pub delivered_per_s: f64,
}

/// What catching up meant for receivers that answer at once.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CatchUps {
    pub caught_up: Vec<CatchUp>,
    /// Of receivers that answer at once, while another one caught up, and in the rest of the run.
    pub p99_ms_meanwhile: f64,
    pub p99_ms_otherwise: f64,
}

/// Keeps the account.
#[derive(Debug)]
pub struct CatchUpWatch {
    late: Vec<LateTarget>,
    done: Vec<CatchUp>,
    meanwhile: Histogram<u64>,
    otherwise: Histogram<u64>,
}

#[derive(Debug)]
struct LateTarget {
    index: usize,
    name: String,
    /// When its phases end, seconds into the load; the last first.
    phase_ends_s: Vec<f64>,
    since: Option<Since>,
}

#[derive(Clone, Copy, Debug)]
struct Since {
    phase_ended_us: u64,
    /// Of the last look at which nothing more had reached it than when its phase ended.
    now_us: u64,
    num_owed: u64,
    num_first: u64,
    is_reached: bool,
}

impl CatchUpWatch {
    /// Looks after those of the scenario's targets that have phases with an end.
    pub fn new(targets: &[Target], empty: &Histogram<u64>) -> Self {
        let late = targets.iter().enumerate().filter(|(_, target)| !target.is_dead).filter_map(|(index, target)| {
            let mut phase_ends_s: Vec<f64> = target.phases.iter().filter_map(|phase| phase.until_s).collect();
            phase_ends_s.sort_by(|a, b| b.total_cmp(a));
            (!phase_ends_s.is_empty()).then(|| LateTarget {
                index,
                name: target.name.clone(),
                phase_ends_s,
                since: None,
            })
        });
        Self { late: late.collect(), done: Vec::new(), meanwhile: empty.clone(), otherwise: empty.clone() }
    }

    /// Whether there is anything to look for.
    pub fn is_needed(&self) -> bool {
        !self.late.is_empty()
    }

    /// A look, so many seconds into the load. `figures` and `oldest_owed_us` are asked for a target by its index; `plain` holds the
    /// latencies since the last look of the targets that answer at once.
    pub fn look(
        &mut self,
        load_s: f64,
        now_us: u64,
        figures: impl Fn(usize) -> DutyFigures,
        oldest_owed_us: impl Fn(usize) -> Option<u64>,
        plain: &Histogram<u64>,
    ) {
        let is_busy = self.late.iter().any(|late| late.since.is_some_and(|since| since.is_reached));
        // The bounds are the same everywhere: adding cannot fail.
        let _ = if is_busy { self.meanwhile.add(plain) } else { self.otherwise.add(plain) };
        for late in &mut self.late {
            if late.phase_ends_s.last().is_some_and(|end_s| load_s >= *end_s) {
                late.phase_ends_s.pop();
                let DutyFigures { num_open: num_owed, num_first, .. } = figures(late.index);
                late.since = Some(Since { phase_ended_us: now_us, now_us, num_owed, num_first, is_reached: false });
            }
            let Some(since) = &mut late.since else { continue };
            if !since.is_reached {
                let DutyFigures { num_open: num_owed, num_first, .. } = figures(late.index);
                since.is_reached = num_first > since.num_first;
                if !since.is_reached {
                    (since.now_us, since.num_owed) = (now_us, num_owed);
                }
            }
            let since = *since;
            if oldest_owed_us(late.index).is_some_and(|sent_us| now_us.saturating_sub(sent_us) >= LATE_AFTER_US) {
                continue;
            }
            late.since = None;
            let took_s = (now_us - since.now_us) as f64 / 1e6;
            // Never away long enough to be late: nothing was caught up.
            if took_s > 0.0 {
                let num_delivered = figures(late.index).num_first - since.num_first;
                self.done.push(CatchUp {
                    target: late.name.clone(),
                    waited_s: hundredths((since.now_us - since.phase_ended_us) as f64 / 1e6),
                    num_owed: since.num_owed,
                    took_s: hundredths(took_s),
                    delivered_per_s: (num_delivered as f64 / took_s).round(),
                });
            }
        }
    }

    /// The account; `None` when nobody had anything to catch up with.
    pub fn account(&self) -> Option<CatchUps> {
        (!self.done.is_empty()).then(|| CatchUps {
            caught_up: self.done.clone(),
            p99_ms_meanwhile: quantile_ms(&self.meanwhile, 0.99),
            p99_ms_otherwise: quantile_ms(&self.otherwise, 0.99),
        })
    }
}

fn hundredths(seconds: f64) -> f64 {
    (seconds * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Scenario;

    const TEXT: &str = r#"
        name = "x"
        about = "x"
        [load]
        rate = 100
        devices = 1
        [[target]]
        name = "hub"
        [[target]]
        name = "late"
        [[target.script]]
        from_s = 1
        until_s = 5
        do = "refuse"
    "#;

    #[test]
    fn from_the_end_of_the_phase_until_nothing_is_late() {
        let targets = Scenario::parse(TEXT).unwrap().targets;
        let one = |ms: u64| {
            let mut histogram = Histogram::<u64>::new_with_bounds(1, 1_000_000_000, 3).unwrap();
            histogram.record(ms * 1000).unwrap();
            histogram
        };
        let mut empty = one(1);
        empty.reset();
        let mut watch = CatchUpWatch::new(&targets, &empty);
        assert!(watch.is_needed());
        let figures = |num_open, num_first| move |_| DutyFigures { num_open, num_first, ..DutyFigures::default() };
        watch.look(4.0, 4_000_000, figures(300, 100), |_| Some(1_000_000), &one(10));
        assert_eq!(watch.account(), None, "its phase is not over");
        watch.look(5.0, 5_000_000, figures(400, 100), |_| Some(1_000_000), &one(11));
        watch.look(5.5, 5_500_000, figures(450, 100), |_| Some(1_000_000), &one(11));
        watch.look(6.0, 6_000_000, figures(200, 400), |_| Some(3_000_000), &one(13));
        watch.look(6.5, 6_500_000, figures(100, 550), |_| Some(5_000_000), &one(40));
        watch.look(7.0, 7_000_000, figures(10, 700), |_| Some(6_900_000), &one(50));
        watch.look(8.0, 8_000_000, figures(0, 800), |_| None, &one(12));
        let account = watch.account().unwrap();
        let expected =
            CatchUp { target: "late".into(), waited_s: 0.5, num_owed: 450, took_s: 1.5, delivered_per_s: 400.0 };
        assert_eq!(account.caught_up, [expected]);
        assert!((49.0..51.0).contains(&account.p99_ms_meanwhile), "{}", account.p99_ms_meanwhile);
        assert!((12.0..14.0).contains(&account.p99_ms_otherwise), "{}", account.p99_ms_otherwise);
    }
}
