//! How the allocator treats the system's memory. Decided here: no huge pages, and how long freed memory is kept.
//!
//! Limits: the allocator's numbers are the process's; what is called here is called before the pipeline runs. Whoever sets
//! `MIMALLOC_PURGE_DELAY` keeps it.
#![allow(unsafe_code, reason = "calls into the system and the allocator")]

use std::ffi::c_long;
use std::time::Duration;

use libmimalloc_sys::{mi_option_eager_commit_delay, mi_option_set, mi_option_t};

/// How long freed memory is kept before it is given back, milliseconds; ten times as long where it is shared. The bindings do not name it;
/// it stands behind the option that they do name (mimalloc.h, `mi_option_purge_delay`).
const PURGE_DELAY: mi_option_t = mi_option_eager_commit_delay + 1;
/// Sooner than the 10 ms that the allocator comes with: what a burst took is given back.
const PURGE_DELAY_MS: c_long = 1;

/// No huge pages for this process and its workers: the allocator asks for them, and a thread that has touched 100 bytes then holds 2 MB.
/// That was a third of an idle node's memory (92 MB, 57 without), and no uplink was cheaper for it. And what was freed is given back soon.
/// Where the system refuses, nothing changes.
pub fn hold_little() {
    // SAFETY: a plain system call that takes numbers.
    #[cfg(target_os = "linux")]
    unsafe {
        libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0);
    }
    set_purge_delay(PURGE_DELAY_MS);
}

/// Where work comes in beats, what one beat frees is what the next one takes: given back between them, it is taken from the system anew,
/// page by page. That was 3 % of what a node costs on Kafka; it holds 40 MB more for it.
pub fn keep_freed_over(beat: Duration) {
    let beat_ms = c_long::try_from(beat.as_millis()).unwrap_or(c_long::MAX);
    set_purge_delay(beat_ms.saturating_add(beat_ms / 4));
}

fn set_purge_delay(delay_ms: c_long) {
    if std::env::var_os("MIMALLOC_PURGE_DELAY").is_some() {
        return;
    }
    // SAFETY: writes one of the allocator's own numbers. It reads it whenever it gives memory back, and the old value is as right as the new.
    unsafe {
        mi_option_set(PURGE_DELAY, delay_ms);
    }
}

#[cfg(test)]
mod tests {
    use libmimalloc_sys::mi_option_get;

    use super::*;

    #[test]
    fn the_allocators_numbers_mean_what_they_are_taken_for() {
        // SAFETY: reads a number.
        let delay_ms = || unsafe { mi_option_get(PURGE_DELAY) };
        assert_eq!(delay_ms(), 10, "what the allocator comes with: is it still the number that it was?");
        hold_little();
        assert_eq!(delay_ms(), 1);
        keep_freed_over(Duration::from_millis(80));
        assert_eq!(delay_ms(), 100);
    }
}
