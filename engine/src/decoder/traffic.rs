//! What travels between the parent and one worker: batches of jobs out, answers in.
//!
//! A batch goes out at once when the worker has had nothing to do for a moment; while frames follow each other, jobs gather for
//! [`GATHER`] first, or until they are worth a frame of their own, because a frame of one costs as much as one of fifty. At most
//! [`NUM_FRAMES_MAX`] frames are on their way, each of bounded number, size and expected time, so that turns between decoders stay
//! short.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use metrics::counter;
use sluse_schema::device::DecoderScript;
use sluse_schema::port::{DecodeError, Decoded};

use super::metrics as names;
use super::protocol::{Malformed, Reply, Request, Status, begin_frame, end_frame, split_frame};
use super::session::Session;
use super::waiting::Job;

const NUM_FRAMES_MAX: usize = 2;
/// How long after a frame the next one gathers jobs.
pub(super) const GATHER: Duration = Duration::from_millis(2);
/// Jobs gathered that are worth a frame without waiting, or a second one while the worker still has one.
const NUM_WORTH_A_FRAME: usize = 32;
const BATCH_JOBS_MAX: usize = 256;
const BATCH_US_MAX: f32 = 5_000.0;
const BATCH_BYTES_MAX: usize = 1 << 20;
/// Sources a worker is trusted to keep; the parent says what to forget beyond.
const SOURCES_BYTES_MAX: usize = 64 << 20;

impl Session<'_> {
    /// Makes frames of what waits, as far as the worker can take more. `true` when the pool stops and nothing waits any more.
    pub(super) fn gather(&mut self) -> bool {
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
        let is_worth_it = state.queue.len() >= NUM_WORTH_A_FRAME;
        let has_room = match self.frames.len() {
            0 => is_worth_it || self.gather_until <= Instant::now(),
            n if n < NUM_FRAMES_MAX => is_worth_it,
            _ => false,
        };
        self.is_gathering = self.frames.is_empty() && !has_room && !state.queue.is_empty();
        let mut sent = 0;
        let mut refused: Vec<(Job, DecodeError)> = Vec::new();
        while has_room && sent == 0 && !state.queue.is_empty() {
            let mut jobs = Vec::with_capacity(state.queue.len().min(BATCH_JOBS_MAX));
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
            self.gather_until = Instant::now() + GATHER;
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
            metadata: job.job.metadata.pieces(),
            payload: &job.job.payload,
        }
        .write(&mut self.outgoing);
        self.in_flight.push_back(job);
    }

    /// Hands out the answers of every whole frame.
    pub(super) fn answer(&mut self) -> Result<(), Malformed> {
        let mut incoming = std::mem::take(&mut self.incoming);
        let mut rest = incoming.as_slice();
        let mut took: Vec<(Arc<DecoderScript>, u32)> = Vec::new();
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
        let num_used = incoming.len() - rest.len();
        incoming.drain(..num_used);
        // The same memory for the next answers.
        self.incoming = incoming;
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
}

/// Answers a job and counts its failure.
pub(super) fn answer(job: Job, result: Result<Decoded, DecodeError>) {
    if let Err(error) = &result {
        counter!(names::ERRORS, "kind" => error.kind.as_str()).increment(1);
    }
    // A caller that went away needs no answer.
    let _ = job.answer.send(result);
}
