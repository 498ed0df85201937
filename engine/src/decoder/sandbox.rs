//! What a worker process gives up before it runs anybody's script.
//!
//! In order: every descriptor but 0 (socket), 1 (progress page, closed once mapped) and 2 (log pipe); root, for `nobody`; core dumps,
//! new files, new descriptors, memory beyond a bound; ever getting privileges again; living on after the engine's death; and last,
//! with everything initialised, every system call but the few that computing and talking over open descriptors need. A call that
//! is not on the list fails with EPERM rather than killing the process, so that a C library which probes for something new does not
//! take the worker down; to a script that took the process over both are the same wall.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

/// User and group `nobody`.
const NOBODY: u32 = 65_534;
/// Address space beyond what is mapped after initialisation and what images may take.
const SPARE_ADDRESS_BYTES: u64 = 256 << 20;

/// Why a worker cannot be made safe. It then does not run at all.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    #[error("cannot {what}: {source}")]
    System { what: &'static str, source: io::Error },
    #[error("cannot build the system call filter: {0}")]
    Filter(String),
}

fn check(what: &'static str, result: i32) -> Result<(), SandboxError> {
    if result == 0 { Ok(()) } else { Err(SandboxError::System { what, source: io::Error::last_os_error() }) }
}

/// First step, before anything is read: what was inherited is closed and root is given up.
///
/// # Errors
/// [`SandboxError::System`]. Not being able to become `nobody` is no error: the filter holds without it.
pub fn enter() -> Result<(), SandboxError> {
    // SAFETY: plain system calls; no descriptor above 2 is in use by this program yet.
    unsafe {
        check("close inherited descriptors", libc::close_range(3, u32::MAX, 0) as i32)?;
        // The first to go when the machine runs out of memory. Best effort.
        let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
        check("leave the directory", libc::chdir(c"/".as_ptr()))?;
        if libc::geteuid() == 0 {
            libc::setgroups(0, std::ptr::null());
            libc::setresgid(NOBODY, NOBODY, NOBODY);
            libc::setresuid(NOBODY, NOBODY, NOBODY);
        }
        // A real fault must end the process (Rust's handler is for its own stack messages).
        libc::signal(libc::SIGSEGV, libc::SIG_DFL);
        libc::signal(libc::SIGBUS, libc::SIG_DFL);
        check("forbid new privileges", libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
        check("hide from debuggers", libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0))?;
        // After the change of user, which clears it.
        check("die with the engine", libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0))?;
        // The time zone is read now, since files cannot be opened later.
        let (now, mut local) = (0i64, std::mem::zeroed());
        libc::localtime_r(&now, &mut local);
    }
    Ok(())
}

/// Last step: limits and the system call filter. `extra_bytes` is what the process may map beyond now.
///
/// # Errors
/// [`SandboxError`]; the worker must not run scripts then.
pub fn lock(extra_bytes: u64) -> Result<(), SandboxError> {
    let limit = |what, resource, value: u64| {
        let limit = libc::rlimit { rlim_cur: value, rlim_max: value };
        // SAFETY: a plain system call on a local value.
        check(what, unsafe { libc::setrlimit(resource, &limit) })
    };
    limit(
        "limit memory",
        libc::RLIMIT_AS,
        mapped_bytes().saturating_add(extra_bytes).saturating_add(SPARE_ADDRESS_BYTES),
    )?;
    limit("limit files", libc::RLIMIT_FSIZE, 0)?;
    limit("limit core dumps", libc::RLIMIT_CORE, 0)?;
    limit("limit descriptors", libc::RLIMIT_NOFILE, 3)?;
    let filter = filter().map_err(SandboxError::Filter)?;
    seccompiler::apply_filter_all_threads(&filter).map_err(|e| SandboxError::Filter(e.to_string()))
}

/// Address space in use.
fn mapped_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(1 << 18);
    // SAFETY: a plain question.
    let page_bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    pages * u64::try_from(page_bytes).unwrap_or(4_096)
}

fn filter() -> Result<BpfProgram, String> {
    let no_exec = || -> Result<Vec<SeccompRule>, String> {
        let is_data =
            SeccompCondition::new(2, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(libc::PROT_EXEC as u64), 0)
                .and_then(|c| SeccompRule::new(vec![c]))
                .map_err(|e| e.to_string())?;
        Ok(vec![is_data])
    };
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = [
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_readv,
        libc::SYS_writev,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_madvise,
        libc::SYS_brk,
        libc::SYS_futex,
        libc::SYS_clock_gettime,
        libc::SYS_gettimeofday,
        libc::SYS_getrandom,
        libc::SYS_sched_yield,
        libc::SYS_sigaltstack,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_restart_syscall,
        libc::SYS_exit,
        libc::SYS_exit_group,
    ]
    .into_iter()
    .map(|call| (call, Vec::new()))
    .collect();
    rules.insert(libc::SYS_mmap, no_exec()?);
    rules.insert(libc::SYS_mprotect, no_exec()?);
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|e| e.to_string())?;
    SeccompFilter::new(rules, SeccompAction::Errno(libc::EPERM as u32), SeccompAction::Allow, arch)
        .and_then(BpfProgram::try_from)
        .map_err(|e| e.to_string())
}

/// What this process is, for the log: to be asked between [`enter`] and [`lock`].
pub fn describe() -> String {
    // SAFETY: plain system calls without effect.
    let (uid, fds) = unsafe {
        let open: Vec<String> =
            (0..256).filter(|fd| libc::fcntl(*fd, libc::F_GETFD) >= 0).map(|fd: i32| fd.to_string()).collect();
        (libc::geteuid(), open.join(","))
    };
    let env: Vec<String> = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned()).collect();
    format!("uid={uid} fds={fds} env={} seccomp=on", env.join(","))
}

/// Tries what must be refused, for tests: one `name=outcome` per line, `ok` where it went through.
pub fn self_check() -> String {
    let outcome = |result: i64| {
        if result >= 0 {
            "ok".to_owned()
        } else {
            format!("errno {}", io::Error::last_os_error().raw_os_error().unwrap_or(0))
        }
    };
    // SAFETY: each call is refused by the filter; where one is not, it does nothing that matters in a test.
    let tried: Vec<(&str, String)> = unsafe {
        vec![
            ("socket", outcome(i64::from(libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0)))),
            ("socketpair", outcome(libc::syscall(libc::SYS_socketpair, 1, 1, 0, [0i32; 2].as_mut_ptr()))),
            ("open", outcome(i64::from(libc::open(c"/etc/hostname".as_ptr(), libc::O_RDONLY)))),
            ("fork", outcome(libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0))),
            ("execve", outcome(i64::from(libc::execve(c"/bin/true".as_ptr(), std::ptr::null(), std::ptr::null())))),
            ("kill", outcome(i64::from(libc::kill(1, 0)))),
            ("ptrace", outcome(libc::syscall(libc::SYS_ptrace, libc::PTRACE_TRACEME, 0, 0, 0))),
            ("dup", outcome(i64::from(libc::dup(0)))),
            ("setuid", outcome(i64::from(libc::setuid(0)))),
            ("prctl", outcome(i64::from(libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0)))),
            ("exec memory", {
                let access = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
                let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
                let at = libc::mmap(std::ptr::null_mut(), 4_096, access, flags, -1, 0);
                outcome(if at == libc::MAP_FAILED { -1 } else { 0 })
            }),
            ("2 GiB", {
                let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
                let at = libc::mmap(std::ptr::null_mut(), 2 << 30, libc::PROT_READ, flags, -1, 0);
                outcome(if at == libc::MAP_FAILED { -1 } else { 0 })
            }),
        ]
    };
    tried.into_iter().map(|(name, outcome)| format!("{name}={outcome}\n")).collect()
}
