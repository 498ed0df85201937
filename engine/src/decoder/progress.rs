//! One shared page per worker: how many jobs it started and finished. It costs the worker two stores per job and tells the parent
//! which message was in flight when the worker died or got stuck. The worker can lie in it; that only moves blame among its own jobs.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

const PAGE_BYTES: usize = 4_096;

#[repr(C)]
struct Page {
    num_started: AtomicU64,
    num_finished: AtomicU64,
}

/// A mapping of the shared page.
#[derive(Debug)]
pub struct Progress(NonNull<Page>);

// SAFETY: the page is only accessed through atomics.
unsafe impl Send for Progress {}
// SAFETY: as above.
unsafe impl Sync for Progress {}

impl Progress {
    /// A new page, and the descriptor to hand to the worker.
    ///
    /// # Errors
    /// The system's.
    pub fn create() -> std::io::Result<(Self, OwnedFd)> {
        // SAFETY: a plain call; the descriptor is ours alone when it is valid.
        let fd = unsafe {
            let fd = libc::memfd_create(c"sluse-decoder".as_ptr(), libc::MFD_CLOEXEC);
            if fd < 0 {
                return Err(std::io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        let file = File::from(fd.try_clone()?);
        file.set_len(PAGE_BYTES as u64)?;
        Ok((Self::map(&fd)?, fd))
    }

    /// Maps a page that [`Progress::create`] made elsewhere.
    ///
    /// # Errors
    /// The system's.
    pub fn map(fd: &impl AsRawFd) -> std::io::Result<Self> {
        // SAFETY: a shared mapping of a file of at least this size; the result is checked.
        let page = unsafe {
            let access = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(std::ptr::null_mut(), PAGE_BYTES, access, libc::MAP_SHARED, fd.as_raw_fd(), 0)
        };
        if page == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        NonNull::new(page.cast()).map(Self).ok_or_else(std::io::Error::last_os_error)
    }

    fn page(&self) -> &Page {
        // SAFETY: the mapping lives as long as `self`; zeroes are valid atomics.
        unsafe { self.0.as_ref() }
    }

    /// The worker begins: whatever a start-up message wrote through the descriptor is overwritten.
    pub fn reset(&self) {
        self.page().num_started.store(0, Ordering::Relaxed);
        self.page().num_finished.store(0, Ordering::Relaxed);
    }

    /// The worker begins its next job.
    pub fn start(&self) {
        self.page().num_started.fetch_add(1, Ordering::Relaxed);
    }

    /// The worker is done with the job it began.
    pub fn finish(&self) {
        self.page().num_finished.fetch_add(1, Ordering::Relaxed);
    }

    /// Jobs started and finished so far.
    pub fn read(&self) -> (u64, u64) {
        (self.page().num_started.load(Ordering::Relaxed), self.page().num_finished.load(Ordering::Relaxed))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        // SAFETY: our own mapping, unmapped once.
        unsafe {
            libc::munmap(self.0.as_ptr().cast(), PAGE_BYTES);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_mappings_of_a_page_see_the_same_counts() {
        let (ours, fd) = Progress::create().unwrap();
        let theirs = Progress::map(&fd).unwrap();
        theirs.start();
        theirs.start();
        theirs.finish();
        assert_eq!(ours.read(), (2, 1));
    }
}
