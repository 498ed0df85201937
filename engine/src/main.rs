//! The program `sluse`: its commands are in `sluse_engine::cli`.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    use_small_pages();
    sluse_engine::cli::main()
}

/// No huge pages for this process and its workers. The allocator asks for them, and a thread that has touched 100 bytes then holds 2 MB:
/// a third of an idle node's memory (92 against 57 MB), and no uplink was cheaper for it. Where the system refuses, nothing changes.
#[allow(unsafe_code)]
fn use_small_pages() {
    // SAFETY: a plain system call that takes numbers.
    #[cfg(target_os = "linux")]
    unsafe {
        libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0);
    }
}
