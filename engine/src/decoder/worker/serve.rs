//! A worker's life: give up what it must not have, then answer frames until the socket closes.
//!
//! Descriptor 0 is the socket, 1 the progress page, 2 the log pipe. Results are sent when a frame is done, and within it every
//! millisecond or 64 KiB, so that a slow message does not hold back the answers before it for long.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::FromRawFd;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use sluse_schema::port::DecodeErrorKind;

use super::cache::Cache;
use super::engine::{Call, Engine, Outcome};
use crate::decoder::config::Limits;
use crate::decoder::progress::Progress;
use crate::decoder::protocol::{Malformed, Reply, Request, Status, begin_frame, end_frame, split_frame};
use crate::decoder::sandbox;

const FLUSH_AFTER: Duration = Duration::from_millis(1);
const FLUSH_BYTES: usize = 64 << 10;
const READ_BYTES: usize = 256 << 10;

/// Runs as a decoder worker: what `sluse decoder-worker` calls, before anything else is set up. Returns when the engine closed the
/// socket, or when the sandbox could not be set up.
pub fn worker_main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Descriptor 2 is a pipe to the engine's log.
            let _ = writeln!(io::stderr(), "decoder worker: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    sandbox::enter()?;
    // SAFETY: the parent put these descriptors there for us, and nothing else uses them.
    let (socket, page) = unsafe { (File::from_raw_fd(0), File::from_raw_fd(1)) };
    let progress = Progress::map(&page)?;
    progress.reset();
    drop(page);
    let mut reader = FrameReader { socket: &socket, buffer: Vec::new(), len: 0, used: 0 };
    let Some(mut first) = reader.next()? else { return Ok(()) };
    let Request::Limits(limits) = Request::read(&mut first)? else { return Err(Malformed.into()) };
    let engine = Engine::new(limits)?;
    let hello = sandbox::describe();
    sandbox::lock(2 * limits.images_bytes_max as u64)?;

    let mut worker = Worker {
        engine,
        limits,
        cache: Cache::default(),
        progress,
        socket: &socket,
        out: Vec::new(),
        frame: None,
        flushed_at: Instant::now(),
        meter: CpuMeter::start(),
    };
    worker.reply(&Reply::Hello { text: &hello });
    worker.flush()?;
    while let Some(mut frame) = reader.next()? {
        worker.flushed_at = Instant::now();
        worker.meter = CpuMeter::start();
        while !frame.is_empty() {
            worker.handle(Request::read(&mut frame)?)?;
        }
        worker.flush()?;
    }
    Ok(())
}

struct Worker<'s> {
    engine: Engine,
    limits: Limits,
    cache: Cache,
    progress: Progress,
    socket: &'s File,
    out: Vec<u8>,
    /// Where the frame under construction begins in `out`.
    frame: Option<usize>,
    flushed_at: Instant,
    meter: CpuMeter,
}

impl Worker<'_> {
    fn handle(&mut self, request: Request<'_>) -> io::Result<()> {
        match request {
            Request::Limits(_) => {}
            Request::Script { decoder, dialect, source } => self.cache.put(decoder, dialect, source),
            Request::Forget { decoder } => self.cache.forget(decoder),
            Request::SelfCheck => self.reply(&Reply::Checked { text: &sandbox::self_check() }),
            Request::Job { decoder, received_at_ms, metadata: [metadata, _], payload } => {
                self.progress.start();
                self.decode(decoder, Call { payload, metadata, received_at_ms });
                self.progress.finish();
                if self.out.len() >= FLUSH_BYTES || self.flushed_at.elapsed() >= FLUSH_AFTER {
                    self.flush()?;
                }
            }
        }
        Ok(())
    }

    fn decode(&mut self, decoder: i64, call: Call<'_>) {
        let started_at = Instant::now();
        let mut body = Vec::new();
        let (mut is_compiled, mut runs_top_level) = (false, false);
        let outcome = match self.cache.get(decoder, &self.engine, self.limits.images_bytes_max) {
            None => {
                body.extend_from_slice(b"the worker does not have this script");
                Err(DecodeErrorKind::Crash)
            }
            Some((compiled, is_new)) => {
                is_compiled = is_new;
                let result = match compiled {
                    Ok(compiled) => {
                        runs_top_level = compiled.runs_top_level_each_time();
                        self.engine.run(compiled, call, &mut body)
                    }
                    Err(error) => Err(error.clone()),
                };
                result.map_err(|e| {
                    body.extend_from_slice(e.message.as_bytes());
                    e.kind
                })
            }
        };
        let status = match outcome {
            Ok(Outcome::Value { num_warnings }) => Status::Value { num_warnings },
            Ok(Outcome::Nothing) => Status::Nothing,
            Err(kind) => Status::Error(kind),
        };
        let took = self.meter.charge(started_at.elapsed(), cpu_time);
        let took_us = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        let num_cached = self.cache.num_images();
        self.reply(&Reply::Result { status, took_us, is_compiled, runs_top_level, num_cached, body: &body });
    }

    fn reply(&mut self, reply: &Reply<'_>) {
        if self.frame.is_none() {
            self.frame = Some(begin_frame(&mut self.out));
        }
        reply.write(&mut self.out);
    }

    fn flush(&mut self) -> io::Result<()> {
        if let Some(start) = self.frame.take() {
            end_frame(&mut self.out, start);
            (&mut &*self.socket).write_all(&self.out)?;
            self.out.clear();
        }
        self.flushed_at = Instant::now();
        Ok(())
    }
}

/// Shorter messages are charged by the clock on the wall, which costs a twentieth of asking for processor time (0.6 us, twice a
/// message) and can be wrong by no more than this.
const WALL_MAX: Duration = Duration::from_micros(200);

/// What each message of a frame is charged: its time on the wall, but for a long one never more than this thread has used since
/// what was charged before.
struct CpuMeter {
    /// Processor time when it was last asked for.
    mark: Duration,
    /// Charged since.
    charged: Duration,
}

impl CpuMeter {
    fn start() -> Self {
        Self { mark: cpu_time(), charged: Duration::ZERO }
    }

    /// The charge for a message that took `wall`; `used` is what the thread has used so far.
    fn charge(&mut self, wall: Duration, used: impl FnOnce() -> Duration) -> Duration {
        if wall <= WALL_MAX {
            self.charged += wall;
            return wall;
        }
        let now = used();
        let since = now.saturating_sub(self.mark).saturating_sub(self.charged);
        (self.mark, self.charged) = (now, Duration::ZERO);
        wall.min(since)
    }
}

/// What this thread has used of a processor. A decoder is judged by that and never by the clock on the wall: on a busy machine every
/// script is slow by the clock, and the busiest decoder would look like the worst.
fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call only writes the local value. It cannot fail for this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Whole frames from the socket.
struct FrameReader<'s> {
    socket: &'s File,
    buffer: Vec<u8>,
    /// Bytes of `buffer` that were read, and how many of them were handed out.
    len: usize,
    used: usize,
}

impl FrameReader<'_> {
    /// The next frame; `None` when the other end closed.
    fn next(&mut self) -> Result<Option<&[u8]>, Box<dyn std::error::Error>> {
        loop {
            if let Some((_, used)) = split_frame(&self.buffer[self.used..self.len])? {
                let start = self.used + 4;
                self.used += used;
                return Ok(Some(&self.buffer[start..self.used]));
            }
            self.buffer.copy_within(self.used..self.len, 0);
            self.len -= self.used;
            self.used = 0;
            if self.buffer.len() < self.len + READ_BYTES {
                self.buffer.resize(self.len + READ_BYTES, 0);
            }
            match (&mut &*self.socket).read(&mut self.buffer[self.len..]) {
                Ok(0) => return Ok(None),
                Ok(read) => self.len += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decoder_is_not_charged_for_waiting() {
        let (wall, cpu) = (Instant::now(), cpu_time());
        std::thread::sleep(Duration::from_millis(50));
        let waited = cpu_time() - cpu;
        assert!(waited < wall.elapsed() / 2, "{waited:?} of {:?} were charged for sleeping", wall.elapsed());
    }

    #[test]
    fn a_long_message_is_charged_what_it_used_and_a_short_one_its_time() {
        let ms = Duration::from_millis;
        let us = Duration::from_micros;
        let mut meter = CpuMeter { mark: ms(5), charged: Duration::ZERO };
        assert_eq!(meter.charge(us(150), || unreachable!("short: nobody asks")), us(150));
        // 30 ms on the wall, of which 2 ms on a processor; 150 us before it were charged already.
        assert_eq!(meter.charge(ms(30), || ms(7) + us(150)), ms(2));
        assert_eq!(meter.charge(ms(10), || ms(17) + us(150)), ms(10));
        // What was charged for by the wall and not used never makes a negative charge.
        assert_eq!(meter.charge(us(200), || unreachable!()), us(200));
        assert_eq!(meter.charge(us(300), || ms(17) + us(250)), Duration::ZERO);
    }
}
