//! The postmaster as a child: started on a thread that waits for it, started again when it dies, stopped fast but clean.
//!
//! It has its own process group, so that Ctrl-C reaches `sluse` alone, which still needs the database while it drains. When
//! `sluse` itself is killed the kernel sends the postmaster SIGINT (fast shutdown): the signal belongs to the thread that
//! started the child, so that thread lives as long as the child does.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::binaries::Binaries;
use super::cluster::{Paths, RunAs};

/// Pause before the first restart; doubled with every one that follows soon.
const RESTART_AFTER: Duration = Duration::from_millis(500);
const RESTART_AFTER_MAX: Duration = Duration::from_secs(30);
/// A server that ran this long was healthy: the pause starts over.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);
/// A fast shutdown writes a checkpoint; after this it is told to leave without one (SIGQUIT), which the next start recovers.
const FAST_SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(20);
const IMMEDIATE_SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);
const POLL_EVERY: Duration = Duration::from_millis(20);

/// What the thread and its owner share.
#[derive(Debug, Default)]
struct Shared {
    is_stopping: AtomicBool,
    /// 0 while there is none.
    pid: AtomicI32,
    num_exits: AtomicU32,
}

/// The postmaster under its thread.
#[derive(Debug)]
pub struct Postmaster {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Postmaster {
    /// Starts the thread, which starts the server.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn start(binaries: &Binaries, paths: &Paths, run_as: Option<RunAs>) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (program, paths, seen) = (binaries.program("postgres"), paths.clone(), shared.clone());
        let thread = std::thread::Builder::new()
            .name("sluse-postgres".to_owned())
            .spawn(move || keep_running(&program, &paths, run_as.as_ref(), &seen))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// How often it ended by itself.
    pub fn num_exits(&self) -> u32 {
        self.shared.num_exits.load(Ordering::Acquire)
    }

    /// The process, while there is one.
    pub fn pid(&self) -> Option<i32> {
        Some(self.shared.pid.load(Ordering::Acquire)).filter(|pid| *pid != 0)
    }

    /// Stops the server and waits for it: fast first, then immediately, then by force. Returns whether fast was enough.
    pub fn stop(mut self) -> bool {
        self.stop_and_wait()
    }

    fn stop_and_wait(&mut self) -> bool {
        let Some(thread) = self.thread.take() else { return true };
        self.shared.is_stopping.store(true, Ordering::Release);
        let mut is_clean = true;
        for (signal, limit) in [
            (libc::SIGINT, FAST_SHUTDOWN_TIMEOUT),
            (libc::SIGQUIT, IMMEDIATE_SHUTDOWN_TIMEOUT),
            (libc::SIGKILL, IMMEDIATE_SHUTDOWN_TIMEOUT),
        ] {
            if let Some(pid) = self.pid() {
                send_signal(pid, signal);
            }
            let give_up_at = Instant::now() + limit;
            while !thread.is_finished() && Instant::now() < give_up_at {
                std::thread::sleep(POLL_EVERY);
            }
            if thread.is_finished() {
                break;
            }
            is_clean = false;
        }
        if thread.is_finished() {
            // A panic of that thread was reported when it happened.
            let _ = thread.join();
        }
        is_clean
    }
}

impl Drop for Postmaster {
    fn drop(&mut self) {
        self.stop_and_wait();
    }
}

fn keep_running(program: &PathBuf, paths: &Paths, run_as: Option<&RunAs>, shared: &Shared) {
    let mut restart_after = RESTART_AFTER;
    while !shared.is_stopping.load(Ordering::Acquire) {
        let started_at = Instant::now();
        let ended = paths.leftover_postmaster().and_then(|leftover| {
            if let Some(pid) = leftover {
                stop_leftover(pid, paths)?;
            }
            let mut child = spawn(program, paths, run_as)?;
            shared.pid.store(child.id() as i32, Ordering::Release);
            // A stop that came in between saw no pid: it is made up for here.
            if shared.is_stopping.load(Ordering::Acquire) {
                send_signal(child.id() as i32, libc::SIGINT);
            }
            let status = child.wait();
            shared.pid.store(0, Ordering::Release);
            status
        });
        if shared.is_stopping.load(Ordering::Acquire) {
            return;
        }
        shared.num_exits.fetch_add(1, Ordering::AcqRel);
        if started_at.elapsed() > HEALTHY_AFTER {
            restart_after = RESTART_AFTER;
        }
        match ended {
            Ok(status) => {
                tracing::error!(%status, ?restart_after, "the private PostgreSQL ended by itself, starting it again")
            }
            Err(error) => tracing::error!(%error, ?restart_after, "the private PostgreSQL cannot be started"),
        }
        let start_at = Instant::now() + restart_after;
        while Instant::now() < start_at && !shared.is_stopping.load(Ordering::Acquire) {
            std::thread::sleep(POLL_EVERY);
        }
        restart_after = (restart_after * 2).min(RESTART_AFTER_MAX);
    }
}

/// Stops a postmaster that a killed `sluse` left behind: fast first, then immediately.
fn stop_leftover(pid: i32, paths: &Paths) -> io::Result<()> {
    tracing::warn!(pid, "stopping the PostgreSQL that an earlier sluse left running");
    for (signal, limit) in [(libc::SIGINT, FAST_SHUTDOWN_TIMEOUT), (libc::SIGQUIT, IMMEDIATE_SHUTDOWN_TIMEOUT)] {
        send_signal(pid, signal);
        let give_up_at = Instant::now() + limit;
        while Instant::now() < give_up_at {
            if paths.leftover_postmaster()?.is_none() {
                return Ok(());
            }
            std::thread::sleep(POLL_EVERY);
        }
    }
    Err(io::Error::other(format!("PostgreSQL (pid {pid}) still runs on {} and does not stop", paths.data.display())))
}

fn spawn(program: &PathBuf, paths: &Paths, run_as: Option<&RunAs>) -> io::Result<Child> {
    let log = File::create(&paths.startup_log)?;
    let mut command = Command::new(program);
    command.arg("-D").arg(&paths.data).arg("-k").arg(&paths.socket_dir);
    for setting in SETTINGS {
        command.arg("-c").arg(setting);
    }
    prepare(&mut command, paths, run_as);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
    die_with_this_thread(&mut command);
    command.spawn()
}

/// No TCP port, its own log files (a week of them), and sizes for one node on a shared machine.
const SETTINGS: [&str; 16] = [
    "listen_addresses=",
    "unix_socket_permissions=0700",
    "port=5432",
    "max_connections=60",
    "shared_buffers=128MB",
    "max_wal_size=2GB",
    "wal_compression=lz4",
    "default_toast_compression=lz4",
    "checkpoint_timeout=15min",
    "autovacuum_naptime=20s",
    "jit=off",
    "timezone=UTC",
    "logging_collector=on",
    "log_filename=postgresql-%a.log",
    "log_truncate_on_rotation=on",
    "log_rotation_size=0",
];

/// The environment and the user of every PostgreSQL program that is started here.
pub fn prepare(command: &mut Command, paths: &Paths, run_as: Option<&RunAs>) {
    command.env_clear().env("LANG", "C.UTF-8").env("LC_ALL", "C.UTF-8").current_dir("/");
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command.env("HOME", &paths.root);
    if let Some(user) = run_as {
        command.uid(user.uid).gid(user.gid);
    }
}

fn send_signal(pid: i32, signal: i32) {
    // SAFETY: kill takes plain numbers and touches no memory of ours. A pid that is gone gives an error, which is fine.
    #[allow(unsafe_code)]
    unsafe {
        libc::kill(pid, signal);
    }
}

/// The child gets SIGINT when the thread that starts it ends, which it does with the process at the latest.
fn die_with_this_thread(command: &mut Command) {
    let parent = std::process::id() as i32;
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; prctl and getppid are system calls.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGINT as libc::c_ulong) != 0 {
                return Err(io::Error::last_os_error());
            }
            // The parent may have died before the line above.
            if libc::getppid() != parent {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            Ok(())
        });
    }
}
