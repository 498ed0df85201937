//! The rolling window of a device's last transmissions, and what "latest" means. Pure.
//!
//! Both go by event time clamped to received-at, ties by log order: a device with a wrong clock can neither freeze its own
//! latest value nor push everything else out of the window.

use std::collections::VecDeque;

use sluse_schema::device::{Latest, Transmission};

/// How much of a device's past is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowPolicy {
    /// The last `n` transmissions.
    Last(usize),
    /// All within this time before the newest one, milliseconds; at most [`TRANSMISSIONS_MAX`].
    Within(i64),
}

/// Transmissions in one window at most, whatever the policy: a row must stay a row.
pub const TRANSMISSIONS_MAX: usize = 1_000;

/// Event time as it counts: never after received-at, which stands in for a missing one. Unix milliseconds.
pub fn event_at_ms(said_ms: Option<i64>, received_at_ms: i64) -> i64 {
    said_ms.map_or(received_at_ms, |at| at.min(received_at_ms))
}

/// Adds a transmission in its place and drops what the policy no longer keeps.
pub fn push(window: &mut VecDeque<Transmission>, transmission: Transmission, policy: WindowPolicy) {
    let key = |t: &Transmission| (t.event_at_ms, t.offset);
    let place = window.iter().rposition(|t| key(t) <= key(&transmission)).map_or(0, |i| i + 1);
    grow(window, policy);
    window.insert(place, transmission);
    let num_max = match policy {
        WindowPolicy::Last(n) => n.min(TRANSMISSIONS_MAX),
        WindowPolicy::Within(ms) => {
            let newest_ms = window.back().map_or(0, |t| t.event_at_ms);
            while window.front().is_some_and(|t| newest_ms - t.event_at_ms > ms) {
                window.pop_front();
            }
            TRANSMISSIONS_MAX
        }
    };
    while window.len() > num_max {
        window.pop_front();
    }
}

/// Makes room for one more, and for no more than the window will ever hold at once: a deque that doubles would take half as much again
/// of every device, for ever.
fn grow(window: &mut VecDeque<Transmission>, policy: WindowPolicy) {
    let WindowPolicy::Last(n) = policy else { return };
    // One more stands in it while the oldest leaves.
    let num_max = n.min(TRANSMISSIONS_MAX) + 1;
    if window.len() == window.capacity() && window.len() < num_max {
        window.reserve_exact((window.len().max(2)).min(num_max - window.len()));
    }
}

/// Whether `candidate` replaces `latest`.
pub fn is_later(latest: Option<&Latest>, event_at_ms: i64, offset: u64) -> bool {
    latest.is_none_or(|l| (l.event_at_ms, l.offset) <= (event_at_ms, offset))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn transmission(event_at_ms: i64, offset: u64) -> Transmission {
        Transmission {
            event_at_ms,
            offset,
            rssi_dbm: None,
            snr_db: None,
            num_gateways: 0,
            dr: None,
            f_cnt: None,
            f_cnt_gap: 0,
        }
    }

    proptest! {
        #[test]
        fn the_window_is_the_newest_by_event_time(times in proptest::collection::vec(0i64..50, 0..60), n in 1usize..10) {
            let mut window = VecDeque::new();
            for (offset, at) in times.iter().enumerate() {
                push(&mut window, transmission(*at, offset as u64), WindowPolicy::Last(n));
            }
            let mut all: Vec<(i64, u64)> = times.iter().enumerate().map(|(o, at)| (*at, o as u64)).collect();
            all.sort_unstable();
            let expected = all.split_off(all.len().saturating_sub(n));
            prop_assert_eq!(window.iter().map(|t| (t.event_at_ms, t.offset)).collect::<Vec<_>>(), expected);
        }

        #[test]
        fn a_timeframe_keeps_what_lies_within_it(times in proptest::collection::vec(0i64..500, 1..60)) {
            let mut window = VecDeque::new();
            for (offset, at) in times.iter().enumerate() {
                push(&mut window, transmission(*at, offset as u64), WindowPolicy::Within(100));
            }
            let newest = times.iter().max().copied().unwrap_or_default();
            prop_assert!(window.iter().all(|t| newest - t.event_at_ms <= 100));
        }
    }

    #[test]
    fn a_clock_in_the_future_cannot_freeze_a_device() {
        let received = 1_000;
        assert_eq!(event_at_ms(Some(9_999_999), received), received);
        let latest = Latest {
            event_at_ms: event_at_ms(Some(9_999_999), received),
            received_at_ms: received,
            offset: 1,
            rssi_dbm: None,
            snr_db: None,
            payload: None,
        };
        assert!(is_later(Some(&latest), event_at_ms(Some(1_500), 1_600), 2));
        assert!(!is_later(Some(&latest), 999, 2));
        assert!(is_later(Some(&latest), received, 2));
    }
}
