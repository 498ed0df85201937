//! Repeats: has this device sent this event before? Ids are kept by count and by time, each with its log offset, so that a record
//! that is read again (replay, takeover) is never taken for a repeat of itself. Pure.

use std::collections::VecDeque;

use sluse_schema::device::SeenEvent;

/// Ids kept of one device. A network's duplicates come within seconds; redeliveries of a broker within its session.
pub const SEEN_EVENTS_MAX: usize = 64;
/// Ids older than this are forgotten, milliseconds.
pub const SEEN_EVENT_AGE_MS_MAX: i64 = 24 * 60 * 60 * 1000;

/// Whether `event` repeats one that stands earlier in the log; if not, it is remembered.
pub fn is_repeat(seen: &mut VecDeque<SeenEvent>, event: SeenEvent) -> bool {
    while seen.front().is_some_and(|e| event.received_at_ms - e.received_at_ms > SEEN_EVENT_AGE_MS_MAX) {
        seen.pop_front();
    }
    match seen.iter().find(|e| e.repeat_key == event.repeat_key) {
        Some(known) => known.offset < event.offset,
        None => {
            if seen.len() == SEEN_EVENTS_MAX {
                seen.pop_front();
            }
            seen.push_back(event);
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn event(repeat_key: u64, offset: u64) -> SeenEvent {
        SeenEvent { repeat_key, offset, received_at_ms: offset as i64 }
    }

    #[test]
    fn a_record_that_is_read_again_is_no_repeat_of_itself() {
        let mut seen = VecDeque::new();
        assert!(!is_repeat(&mut seen, event(7, 10)));
        assert!(!is_repeat(&mut seen, event(7, 10)));
        assert!(is_repeat(&mut seen, event(7, 11)));
    }

    #[test]
    fn ids_are_forgotten_by_time() {
        let mut seen = VecDeque::new();
        assert!(!is_repeat(&mut seen, event(7, 0)));
        let late = SeenEvent { repeat_key: 7, offset: 1, received_at_ms: SEEN_EVENT_AGE_MS_MAX + 1 };
        assert!(!is_repeat(&mut seen, late));
    }

    proptest! {
        /// Within the number of ids kept, exactly the later ones of equal keys are repeats.
        #[test]
        fn repeats_are_those_of_a_naive_model(keys in proptest::collection::vec(0u64..20, 0..60)) {
            let mut seen = VecDeque::new();
            for (offset, key) in keys.iter().enumerate() {
                let expected = keys[..offset].contains(key);
                prop_assert_eq!(is_repeat(&mut seen, event(*key, offset as u64)), expected);
                prop_assert!(seen.len() <= SEEN_EVENTS_MAX);
            }
        }
    }
}
