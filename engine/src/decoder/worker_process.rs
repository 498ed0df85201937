//! The parent's side of one worker process: starts it, feeds it batches, watches it, restarts it.
//!
//! A batch goes out at once when the worker has nothing to do; while it works, jobs gather, and the next batch follows when the
//! gathered ones are worth a frame of their own or the worker is done. At most [`NUM_FRAMES_MAX`] frames are on their way, each of
//! bounded number, size and expected time, so that turns between decoders stay short.
//!
//! When the worker ends, the progress page tells which message was in flight: that one fails, the other unanswered ones are queued
//! again at the front, in order. When no message can be blamed, nobody is.
#![allow(unsafe_code)]

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use sluse_schema::port::{DecodeError, DecodeErrorKind, Decoded};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tracing::{debug, error, info, warn};

use super::config::DecoderConfig;
use super::metrics as names;
use super::progress::Progress;
use super::protocol::{Malformed, Reply, Request, Status, begin_frame, end_frame, split_frame};
use super::waiting::{Job, Waiting};

const NUM_FRAMES_MAX: usize = 2;
/// Jobs gathered that are worth a second frame while the worker still has one.
const NUM_WORTH_A_FRAME: usize = 16;
const BATCH_JOBS_MAX: usize = 256;
const BATCH_US_MAX: f32 = 5_000.0;
const BATCH_BYTES_MAX: usize = 1 << 20;
/// Sources a worker is trusted to keep; the parent says what to forget beyond.
const SOURCES_BYTES_MAX: usize = 64 << 20;
const HELLO_WITHIN: Duration = Duration::from_secs(10);
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
const DRAIN_WITHIN: Duration = Duration::from_secs(5);
/// A stuck worker that got no CPU is only slow: it gets this many times the watchdog's patience.
const STARVED_FACTOR: u32 = 10;
const STDERR_BYTES_MAX: usize = 1_024;

/// Why a worker ended.
#[derive(Debug)]
enum End {
    Stopped,
    /// One message made no progress for too long.
    Stuck,
    /// It closed its socket or wrote what is no frame.
    Lost(&'static str),
}

struct Meters {
    decode: Histogram,
    wait: Histogram,
    batch: Histogram,
    values: Counter,
    nothings: Counter,
    warnings: Counter,
    compiled: Counter,
    from_image: Counter,
    top_level: Counter,
    queue: Gauge,
    cached: Gauge,
}

impl Meters {
    fn new(index: usize) -> Self {
        let worker = index.to_string();
        Self {
            decode: histogram!(names::DECODE_SECONDS),
            wait: histogram!(names::WAIT_SECONDS),
            batch: histogram!(names::BATCH_JOBS),
            values: counter!(names::DECODED, "outcome" => "value"),
            nothings: counter!(names::DECODED, "outcome" => "nothing"),
            warnings: counter!(names::WARNINGS),
            compiled: counter!(names::COMPILED),
            from_image: counter!(names::RUNS, "start" => "image"),
            top_level: counter!(names::RUNS, "start" => "top_level"),
            queue: gauge!(names::QUEUE, "worker" => worker.clone()),
            cached: gauge!(names::CACHED, "worker" => worker),
        }
    }
}

/// Drives one worker for as long as the pool lives.
pub(super) struct Driver {
    pub index: usize,
    pub config: Arc<DecoderConfig>,
    pub waiting: Arc<Waiting>,
    /// Process id of the worker, 0 while there is none.
    pub pid: Arc<AtomicU32>,
}

impl Driver {
    /// Starts workers, one after the other, until the pool stops.
    pub(super) async fn run(self) {
        let meters = Meters::new(self.index);
        let mut backoff = BACKOFF_MIN;
        while !(self.is_stopping() && self.waiting.lock().queue.is_empty()) {
            counter!(names::STARTS).increment(1);
            match Session::start(&self, &meters).await {
                Ok(mut session) => {
                    let end = session.serve().await;
                    if session.num_answered > 0 {
                        backoff = BACKOFF_MIN;
                    }
                    if matches!(end, End::Stopped) {
                        session.close();
                        break;
                    }
                    session.bury(&end);
                    if session.num_answered > 0 {
                        continue;
                    }
                }
                Err(reason) => error!(
                    worker = self.index,
                    reason, "cannot start a decoder worker: nothing is decoded until that works, and it is tried again"
                ),
            }
            tokio::select! {
                () = tokio::time::sleep(backoff) => {}
                () = self.until_stopping() => {}
            }
            backoff = (backoff * 2).min(BACKOFF_MAX);
            if self.is_stopping() {
                break;
            }
        }
        self.pid.store(0, Ordering::Relaxed);
    }

    fn is_stopping(&self) -> bool {
        self.waiting.lock().is_stopping
    }

    async fn until_stopping(&self) {
        while !self.is_stopping() {
            self.waiting.changed.notified().await;
        }
    }
}

/// One worker process.
struct Session<'d> {
    driver: &'d Driver,
    meters: &'d Meters,
    child: Child,
    socket: UnixStream,
    stderr: pipe::Receiver,
    said: Vec<u8>,
    progress: Progress,
    /// Sent and not answered, oldest first.
    in_flight: VecDeque<Job>,
    num_answered: u64,
    /// Answers still due from each frame on its way.
    frames: VecDeque<usize>,
    /// Version, size and last use of the scripts that the worker has.
    known: HashMap<i64, (u64, usize, u64)>,
    known_bytes: usize,
    clock: u64,
    outgoing: Vec<u8>,
    num_written: usize,
    incoming: Vec<u8>,
    self_checks: VecDeque<tokio::sync::oneshot::Sender<String>>,
}

impl<'d> Session<'d> {
    /// Starts a process and waits until it is ready.
    async fn start(driver: &'d Driver, meters: &'d Meters) -> Result<Self, String> {
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
    async fn serve(&mut self) -> End {
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
                () = self.driver.waiting.changed.notified() => {}
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

    /// Makes frames of what waits, as far as the worker can take more. `true` when the pool stops and nothing waits any more.
    fn gather(&mut self) -> bool {
        let waiting = Arc::clone(&self.driver.waiting);
        let mut state = waiting.lock();
        let start = begin_frame(&mut self.outgoing);
        for decoder in std::mem::take(&mut state.to_forget) {
            if let Some((_, bytes, _)) = self.known.remove(&decoder) {
                self.known_bytes -= bytes;
                Request::Forget { decoder }.write(&mut self.outgoing);
            }
        }
        for sender in std::mem::take(&mut state.wants_self_check) {
            Request::SelfCheck.write(&mut self.outgoing);
            self.self_checks.push_back(sender);
        }
        let has_room = match self.frames.len() {
            0 => true,
            n if n < NUM_FRAMES_MAX => state.queue.len() >= NUM_WORTH_A_FRAME,
            _ => false,
        };
        let mut sent = 0;
        let mut refused: Vec<(Job, DecodeError)> = Vec::new();
        while has_room && sent == 0 && !state.queue.is_empty() {
            let mut jobs = Vec::new();
            state.queue.take(BATCH_JOBS_MAX, BATCH_US_MAX, |_, job: Job| jobs.push(job));
            let mut bytes = 0;
            let mut back: Vec<Job> = Vec::new();
            let now = Instant::now();
            for job in jobs {
                if job.answer.is_closed() {
                    continue;
                }
                if bytes >= BATCH_BYTES_MAX {
                    back.push(job);
                    continue;
                }
                if let Err(error) = waiting.check(&mut state, &job.job.script) {
                    // What waits behind it is not to wait for its turn only to be refused, too.
                    let behind = state.queue.drain(job.decoder().0);
                    refused.extend(std::iter::once(job).chain(behind).map(|job| (job, error.clone())));
                    continue;
                }
                self.meters.wait.record(now.duration_since(job.queued_at).as_secs_f64());
                bytes += job.job.payload.len() + job.job.metadata.len();
                self.put(job);
                sent += 1;
            }
            for job in back.into_iter().rev() {
                state.queue.push_front(job.decoder().0, job);
            }
        }
        if sent > 0 {
            self.frames.push_back(sent);
            self.meters.batch.record(sent as f64);
            self.meters.queue.set(state.queue.len() as f64);
        }
        let is_drained = state.is_stopping && state.queue.is_empty();
        drop(state);
        for (job, error) in refused {
            answer(job, Err(error));
        }
        if self.outgoing.len() == start + 4 {
            self.outgoing.truncate(start);
        } else {
            end_frame(&mut self.outgoing, start);
        }
        is_drained
    }

    /// A job into the frame under construction, its script before it when the worker does not have it.
    fn put(&mut self, job: Job) {
        let script = &job.job.script;
        let decoder = script.id.0;
        self.clock += 1;
        let clock = self.clock;
        match self.known.get_mut(&decoder) {
            Some((version, _, used_at)) if *version == script.version => *used_at = clock,
            _ => {
                let bytes = script.source.len();
                if let Some((_, old, _)) = self.known.insert(decoder, (script.version, bytes, clock)) {
                    self.known_bytes -= old;
                }
                self.known_bytes += bytes;
                while self.known_bytes > SOURCES_BYTES_MAX && self.known.len() > 1 {
                    let Some(oldest) = self.known.iter().min_by_key(|(_, (_, _, used_at))| *used_at).map(|(id, _)| *id)
                    else {
                        break;
                    };
                    if let Some((_, bytes, _)) = self.known.remove(&oldest) {
                        self.known_bytes -= bytes;
                    }
                    Request::Forget { decoder: oldest }.write(&mut self.outgoing);
                }
                Request::Script { decoder, dialect: script.dialect, source: &script.source }.write(&mut self.outgoing);
            }
        }
        Request::Job {
            decoder,
            received_at_ms: job.job.received_at_ms,
            metadata: &job.job.metadata,
            payload: &job.job.payload,
        }
        .write(&mut self.outgoing);
        self.in_flight.push_back(job);
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

    /// Hands out the answers of every whole frame.
    fn answer(&mut self) -> Result<(), Malformed> {
        let incoming = std::mem::take(&mut self.incoming);
        let mut rest = incoming.as_slice();
        let mut took: Vec<(Arc<sluse_schema::device::DecoderScript>, u32)> = Vec::new();
        let mut outcome = Ok(());
        'frames: while let Some((mut frame, used)) = split_frame(rest)? {
            while !frame.is_empty() {
                match Reply::read(&mut frame) {
                    Ok(Reply::Result { status, took_us, is_compiled, runs_top_level, num_cached, body }) => {
                        let Some(job) = self.in_flight.pop_front() else {
                            outcome = Err(Malformed);
                            break 'frames;
                        };
                        self.num_answered += 1;
                        self.count_frame();
                        took.push((Arc::clone(&job.job.script), took_us));
                        self.meters.decode.record(f64::from(took_us) / 1e6);
                        if is_compiled {
                            self.meters.compiled.increment(1);
                            self.meters.cached.set(f64::from(num_cached));
                        }
                        (if runs_top_level { &self.meters.top_level } else { &self.meters.from_image }).increment(1);
                        let result = match status {
                            Status::Value { num_warnings } => {
                                self.meters.values.increment(1);
                                if num_warnings > 0 {
                                    self.meters.warnings.increment(u64::from(num_warnings));
                                }
                                Ok(Decoded::Value { json: Bytes::copy_from_slice(body), num_warnings })
                            }
                            Status::Nothing => {
                                self.meters.nothings.increment(1);
                                Ok(Decoded::Nothing)
                            }
                            Status::Error(kind) => {
                                Err(DecodeError { kind, message: String::from_utf8_lossy(body).into_owned() })
                            }
                        };
                        answer(job, result);
                    }
                    Ok(Reply::Checked { text }) => {
                        if let Some(sender) = self.self_checks.pop_front() {
                            let _ = sender.send(text.to_owned());
                        }
                    }
                    Ok(Reply::Hello { .. }) | Err(Malformed) => {
                        outcome = Err(Malformed);
                        break 'frames;
                    }
                }
            }
            rest = &rest[used..];
        }
        self.incoming = rest.to_vec();
        if !took.is_empty() {
            let mut state = self.driver.waiting.lock();
            for (script, us) in took {
                self.driver.waiting.took(&mut state, &script, us);
            }
        }
        outcome
    }

    fn count_frame(&mut self) {
        if let Some(due) = self.frames.front_mut() {
            *due -= 1;
            if *due == 0 {
                self.frames.pop_front();
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
    fn close(mut self) {
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
    fn bury(&mut self, end: &End) {
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
        // However the session ends, no process is left behind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn answer(job: Job, result: Result<Decoded, DecodeError>) {
    if let Err(error) = &result {
        counter!(names::ERRORS, "kind" => error.kind.as_str()).increment(1);
    }
    // A caller that went away needs no answer.
    let _ = job.answer.send(result);
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
