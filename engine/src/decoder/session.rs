//! The life of one worker process, seen from the parent: started, fed, watched, buried.
//!
//! When the worker ends, the progress page tells which message was in flight: that one fails, the other unanswered ones are queued
//! again at the front, in order. When no message can be blamed, nobody is. The watchdog goes by wall clock, but asks for CPU time before
//! it shoots: on a loaded machine a worker that was not scheduled is no endless loop.
#![allow(unsafe_code)]

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use metrics::counter;
use sluse_schema::port::{DecodeError, DecodeErrorKind};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;
use tracing::{debug, info, warn};

use super::metrics as names;
use super::progress::Progress;
use super::protocol::{Reply, Request, begin_frame, end_frame, split_frame};
use super::traffic::answer;
use super::waiting::Job;
use super::worker_process::{Driver, Meters};

const HELLO_WITHIN: Duration = Duration::from_secs(10);
const DRAIN_WITHIN: Duration = Duration::from_secs(5);
/// A stuck worker that got no CPU is only slow: it gets this many times the watchdog's patience.
const STARVED_FACTOR: u32 = 10;
const STDERR_BYTES_MAX: usize = 1_024;

/// Why a worker ended.
#[derive(Debug)]
pub(super) enum End {
    Stopped,
    /// One message made no progress for too long.
    Stuck,
    /// It closed its socket or wrote what is no frame.
    Lost(&'static str),
}

/// One worker process.
pub(super) struct Session<'d> {
    pub(super) driver: &'d Driver,
    pub(super) meters: &'d Meters,
    pub(super) child: Child,
    pub(super) socket: UnixStream,
    pub(super) stderr: pipe::Receiver,
    pub(super) said: Vec<u8>,
    pub(super) progress: Progress,
    /// Sent and not answered, oldest first.
    pub(super) in_flight: VecDeque<Job>,
    pub(super) num_answered: u64,
    /// Answers still due from each frame on its way.
    pub(super) frames: VecDeque<usize>,
    /// Before that, a frame goes out only when it is worth it.
    pub(super) gather_until: Instant,
    /// Jobs wait for that moment and for nothing else.
    pub(super) is_gathering: bool,
    /// Version, size and last use of the scripts that the worker has.
    pub(super) known: HashMap<i64, (u64, usize, u64)>,
    pub(super) known_bytes: usize,
    pub(super) clock: u64,
    pub(super) outgoing: Vec<u8>,
    pub(super) num_written: usize,
    pub(super) incoming: Vec<u8>,
    pub(super) self_checks: VecDeque<oneshot::Sender<String>>,
}

impl<'d> Session<'d> {
    /// Starts a process and waits until it is ready.
    pub(super) async fn start(driver: &'d Driver, meters: &'d Meters) -> Result<Self, String> {
        let io_error = |what: &'static str| move |e: io::Error| format!("{what}: {e}");
        let (program, arguments) = driver.config.worker_command.split_first().ok_or("no worker command is set")?;
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(io_error("socket pair"))?;
        ours.set_nonblocking(true).map_err(io_error("socket pair"))?;
        let (progress, page) = Progress::create().map_err(io_error("progress page"))?;
        let mut child = Command::new(program)
            .args(arguments)
            .env_clear()
            .env("TZ", "UTC")
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::from(page))
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| format!("{program}: {e}"))?;
        driver.pid.store(child.id(), Ordering::Relaxed);
        let stderr = child.stderr.take().map(OwnedFd::from).ok_or("no log pipe")?;
        let mut session = Self {
            driver,
            meters,
            child,
            socket: UnixStream::from_std(ours).map_err(io_error("socket pair"))?,
            stderr: pipe::Receiver::from_owned_fd(stderr).map_err(io_error("log pipe"))?,
            said: Vec::new(),
            progress,
            in_flight: VecDeque::new(),
            num_answered: 0,
            frames: VecDeque::new(),
            gather_until: Instant::now(),
            is_gathering: false,
            known: HashMap::new(),
            known_bytes: 0,
            clock: 0,
            outgoing: Vec::new(),
            num_written: 0,
            incoming: Vec::new(),
            self_checks: VecDeque::new(),
        };
        let start = begin_frame(&mut session.outgoing);
        Request::Limits(driver.config.limits).write(&mut session.outgoing);
        end_frame(&mut session.outgoing, start);
        match tokio::time::timeout(HELLO_WITHIN, session.hello()).await {
            Ok(Ok(text)) => {
                info!(worker = driver.index, pid = session.child.id(), sandbox = text, "decoder worker is ready");
                Ok(session)
            }
            Ok(Err(reason)) => Err(session.dead_at_start(reason)),
            Err(_) => Err(session.dead_at_start("it did not get ready in time")),
        }
    }

    async fn hello(&mut self) -> Result<String, &'static str> {
        loop {
            self.write().map_err(|_| "it ended")?;
            self.socket.ready(self.interest()).await.map_err(|_| "it ended")?;
            let is_open = self.read().map_err(|_| "it ended")?;
            if let Some((mut frame, used)) = split_frame(&self.incoming).map_err(|_| "it speaks another protocol")? {
                let Ok(Reply::Hello { text }) = Reply::read(&mut frame) else {
                    return Err("it speaks another protocol");
                };
                let text = text.to_owned();
                self.incoming.drain(..used);
                return Ok(text);
            }
            if !is_open {
                return Err("it ended");
            }
        }
    }

    fn dead_at_start(&mut self, reason: &str) -> String {
        let status = self.kill();
        self.hear();
        let said = String::from_utf8_lossy(&self.said);
        format!("{reason} ({}): {}", describe(status), said.trim())
    }

    /// Feeds and watches the worker until it ends.
    pub(super) async fn serve(&mut self) -> End {
        let patience = self.driver.config.watchdog;
        let tick_every = (patience / 5).max(Duration::from_millis(5));
        let mut ticks = tokio::time::interval(tick_every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut seen = (0, 0);
        let mut moved_at = Instant::now();
        let mut cpu_then = Duration::ZERO;
        let mut stop_at: Option<Instant> = None;
        loop {
            if self.gather() {
                if self.in_flight.is_empty() {
                    return End::Stopped;
                }
                let deadline = *stop_at.get_or_insert_with(|| Instant::now() + DRAIN_WITHIN);
                if Instant::now() >= deadline {
                    return End::Stopped;
                }
            }
            if self.write().is_err() {
                // Answers may still wait in the socket: read them before anybody is blamed.
                let _ = self.read().and_then(|_| self.answer().map_err(|_| io::ErrorKind::InvalidData.into()));
                return End::Lost("its socket closed");
            }
            tokio::select! {
                ready = self.socket.ready(self.interest()) => {
                    let Ok(ready) = ready else { return End::Lost("its socket failed") };
                    if ready.is_readable() || ready.is_read_closed() {
                        let Ok(is_open) = self.read() else { return End::Lost("its socket failed") };
                        if self.answer().is_err() {
                            return End::Lost("it wrote what is no answer");
                        }
                        if !is_open {
                            return End::Lost("it closed its socket");
                        }
                    }
                }
                // Whoever queues a job meanwhile need not wake anybody: its permit is found afterwards.
                () = self.driver.waiting.changed.notified(), if !self.is_gathering => {}
                () = tokio::time::sleep_until(self.gather_until.into()), if self.is_gathering => {}
                _ = ticks.tick() => {
                    self.hear();
                    let now = self.progress.read();
                    if self.in_flight.is_empty() || now != seen {
                        seen = now;
                        moved_at = Instant::now();
                        cpu_then = cpu_time(self.child.id());
                        continue;
                    }
                    let waited = moved_at.elapsed();
                    let used = cpu_time(self.child.id()).saturating_sub(cpu_then);
                    if waited >= patience && (used >= patience / 2 || waited >= patience * STARVED_FACTOR) {
                        return End::Stuck;
                    }
                }
            }
        }
    }

    fn interest(&self) -> Interest {
        if self.num_written < self.outgoing.len() {
            Interest::READABLE | Interest::WRITABLE
        } else {
            Interest::READABLE
        }
    }

    fn write(&mut self) -> io::Result<()> {
        while self.num_written < self.outgoing.len() {
            match self.socket.try_write(&self.outgoing[self.num_written..]) {
                Ok(written) => self.num_written += written,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) => return Err(e),
            }
        }
        self.outgoing.clear();
        self.num_written = 0;
        Ok(())
    }

    /// Reads what there is; `false` when the worker closed.
    fn read(&mut self) -> io::Result<bool> {
        loop {
            self.incoming.reserve(64 << 10);
            match self.socket.try_read_buf(&mut self.incoming) {
                Ok(0) => return Ok(false),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                // The rest of a dead worker's socket.
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(false),
                Err(e) => return Err(e),
            }
        }
    }

    /// Keeps the last that the worker wrote to its log.
    fn hear(&mut self) {
        let mut buffer = [0; STDERR_BYTES_MAX];
        while let Ok(read @ 1..) = self.stderr.try_read(&mut buffer) {
            self.said.extend_from_slice(&buffer[..read]);
            let excess = self.said.len().saturating_sub(STDERR_BYTES_MAX);
            self.said.drain(..excess);
        }
    }

    fn kill(&mut self) -> Option<ExitStatus> {
        // Already dead is what we want, too.
        let _ = self.child.kill();
        self.driver.pid.store(0, Ordering::Relaxed);
        self.child.wait().ok()
    }

    /// An orderly end: the closed socket tells the worker.
    pub(super) fn close(mut self) {
        let left = self.in_flight.len();
        if left > 0 {
            warn!(
                worker = self.driver.index,
                left, "stopped with unanswered decodes: their records are decoded again after the restart"
            );
        }
        let status = self.kill();
        debug!(worker = self.driver.index, status = describe(status), "decoder worker ended");
    }

    /// A worker that ended by itself or had to be ended: its last message is blamed, the others wait again.
    pub(super) fn bury(&mut self, end: &End) {
        let status = self.kill();
        // What it had answered before counts.
        let _ = self.read();
        let _ = self.answer();
        self.hear();
        let (num_started, num_finished) = self.progress.read();
        let blamed = (num_started > num_finished)
            .then(|| num_started.checked_sub(self.num_answered + 1))
            .flatten()
            .and_then(|at| usize::try_from(at).ok())
            .filter(|at| *at < self.in_flight.len());
        let culprit = blamed.and_then(|at| self.in_flight.remove(at));
        let cause = match end {
            End::Stuck => "stuck",
            End::Lost(what) if what.contains("no answer") => "protocol",
            End::Lost(_) | End::Stopped => "crash",
        };
        counter!(names::KILLS, "cause" => cause).increment(1);
        counter!(names::RESENT).increment(self.in_flight.len() as u64);
        warn!(
            worker = self.driver.index,
            cause,
            status = describe(status),
            decoder = culprit.as_ref().map(|job| job.decoder().0),
            resent = self.in_flight.len(),
            said = %String::from_utf8_lossy(&self.said).trim(),
            "decoder worker ended: it is started again"
        );
        let mut state = self.driver.waiting.lock();
        for job in self.in_flight.drain(..).rev() {
            state.queue.push_front(job.decoder().0, job);
        }
        let Some(job) = culprit else { return };
        let is_quarantined = self.driver.waiting.killed(&mut state, &job.job.script);
        drop(state);
        if is_quarantined {
            warn!(decoder = job.decoder().0, "decoder quarantined: it got its worker killed too often");
        }
        let error = match end {
            End::Stuck => DecodeError {
                kind: DecodeErrorKind::Timeout,
                message: format!(
                    "the script did not come back within {} ms and was ended with its worker (a long native loop?)",
                    self.driver.config.watchdog.as_millis()
                ),
            },
            End::Lost(_) | End::Stopped => DecodeError {
                kind: DecodeErrorKind::Crash,
                message: format!("the JavaScript engine crashed in this script ({})", describe(status)),
            },
        };
        answer(job, Err(error));
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        // However the session ends, no process and no job is left behind.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let mut state = self.driver.waiting.lock();
        for job in self.in_flight.drain(..).rev() {
            state.queue.push_front(job.decoder().0, job);
        }
    }
}

fn describe(status: Option<ExitStatus>) -> String {
    match status {
        None => "unknown status".to_owned(),
        Some(status) => match status.signal() {
            Some(signal) => format!("signal {signal}"),
            None => format!("exit code {}", status.code().unwrap_or(-1)),
        },
    }
}

/// CPU time that a process has used, zero when that is unknown.
fn cpu_time(pid: u32) -> Duration {
    let mut clock = 0;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: both calls only write the local values.
    let is_known = unsafe {
        libc::clock_getcpuclockid(pid as libc::pid_t, &mut clock) == 0 && libc::clock_gettime(clock, &mut time) == 0
    };
    if is_known { Duration::new(time.tv_sec as u64, time.tv_nsec as u32) } else { Duration::ZERO }
}
