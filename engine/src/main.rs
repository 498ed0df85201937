//! The program `sluse`: its commands are in `sluse_engine::cli`. Decided here: its allocator, and how it is scheduled.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    sluse_engine::memory::hold_little();
    preempt_nobody();
    sluse_engine::cli::main()
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
    #[cfg(target_os = "linux")]
    #[allow(unsafe_code)]
    fn threads_that_are_started_later_preempt_nobody_either() {
        preempt_nobody();
        // SAFETY: a plain system call that takes a number.
        let policy = std::thread::spawn(|| unsafe { libc::sched_getscheduler(0) }).join().unwrap();
        assert_eq!(policy, libc::SCHED_BATCH);
    }
}
