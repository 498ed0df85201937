//! The program `sluse`: its commands are in `sluse_engine::cli`. Decided here: how its allocator treats the system's
//! memory, and how it is scheduled.

use std::process::ExitCode;

use libmimalloc_sys::{mi_option_eager_commit_delay, mi_option_get, mi_option_set, mi_option_t};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long freed memory is kept before it is given back, milliseconds; ten times as long where it is shared. The bindings do not name it;
/// it stands behind the option that they do name (mimalloc.h, `mi_option_purge_delay`).
const PURGE_DELAY: mi_option_t = mi_option_eager_commit_delay + 1;
/// What the allocator comes with.
const PURGE_DELAY_DEFAULT_MS: std::ffi::c_long = 10;

fn main() -> ExitCode {
    hold_little_memory();
    preempt_nobody();
    sluse_engine::cli::main()
}

/// No huge pages for this process and its workers: the allocator asks for them, and a thread that has touched 100 bytes then holds 2 MB.
/// That was a third of an idle node's memory (92 MB, 57 without), and no uplink was cheaper for it. And what a burst took is given back
/// sooner. Where the system refuses, nothing changes.
#[allow(unsafe_code)]
fn hold_little_memory() {
    // SAFETY: a plain system call that takes numbers.
    #[cfg(target_os = "linux")]
    unsafe {
        libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0);
    }
    // SAFETY: reads and writes one of the allocator's own numbers, before there is a second thread.
    unsafe {
        // Whoever set it by MIMALLOC_PURGE_DELAY keeps it.
        if mi_option_get(PURGE_DELAY) == PURGE_DELAY_DEFAULT_MS {
            mi_option_set(PURGE_DELAY, 1);
        }
    }
}

/// `SCHED_BATCH` (sched(7)): a thread that wakes up waits until whoever runs is done or has had its share. An uplink wakes one thread after
/// the other, and where they share few processors with each other and with the broker, each wake-up used to cut somebody off in the
/// middle of a batch. What is started from here inherits it. Where the system refuses, nothing changes.
#[allow(unsafe_code)]
fn preempt_nobody() {
    // SAFETY: a plain system call that reads a number of ours; it concerns this thread and those it will start.
    #[cfg(target_os = "linux")]
    unsafe {
        libc::sched_setscheduler(0, libc::SCHED_BATCH, &libc::sched_param { sched_priority: 0 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(unsafe_code)]
    fn the_allocators_numbers_mean_what_they_are_taken_for() {
        // SAFETY: as above.
        assert_eq!(unsafe { mi_option_get(PURGE_DELAY) }, PURGE_DELAY_DEFAULT_MS);
        hold_little_memory();
        // SAFETY: as above.
        assert_eq!(unsafe { mi_option_get(PURGE_DELAY) }, 1);
    }

    #[test]
    #[cfg(target_os = "linux")]
    #[allow(unsafe_code)]
    fn threads_that_are_started_later_preempt_nobody_either() {
        preempt_nobody();
        // SAFETY: a plain system call that takes a number.
        let policy = std::thread::spawn(|| unsafe { libc::sched_getscheduler(0) }).join().unwrap();
        assert_eq!(policy, libc::SCHED_BATCH);
    }
}
