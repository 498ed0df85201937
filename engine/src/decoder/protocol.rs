//! Frames between the engine and a worker: `[u32 length][entries]`, little-endian, over a socket pair. Pure.
//!
//! To the worker: scripts (before their first job, and again after a new version), jobs, what to forget. Back: first [`Hello`], then one
//! result per job, in order. A script's source travels once per worker and version; payload and metadata travel with each job (copying
//! 2 kB costs 0.1 µs, less than keeping track would). Both ends are ours, but the worker's is the one a hostile script may have taken
//! over: what comes from it is read with every length checked, and a bad frame costs the worker its life.

use sluse_schema::device::Dialect;
use sluse_schema::port::DecodeErrorKind;

use super::config::Limits;

/// No frame is longer: a batch of jobs, or of results.
pub const FRAME_BYTES_MAX: usize = 64 << 20;

const SCRIPT: u8 = 1;
const JOB: u8 = 2;
const FORGET: u8 = 3;
const LIMITS: u8 = 4;
const SELF_CHECK: u8 = 5;
const HELLO: u8 = 16;
const RESULT: u8 = 17;
const CHECKED: u8 = 18;

/// A frame or entry that is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a frame between engine and decoder worker is malformed")]
pub struct Malformed;

/// What the worker is told.
#[derive(Clone, Debug, PartialEq)]
pub enum Request<'a> {
    /// The first entry ever: the limits of this worker.
    Limits(Limits),
    Script {
        decoder: i64,
        dialect: Option<Dialect>,
        source: &'a str,
    },
    Job {
        decoder: i64,
        received_at_ms: i64,
        /// One text in two pieces; as read, all of it is in the first.
        metadata: [&'a str; 2],
        payload: &'a [u8],
    },
    Forget {
        decoder: i64,
    },
    /// For tests: try what the sandbox must refuse, and say what happened.
    SelfCheck,
}

/// How a decode ended, as it travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Value { num_warnings: u32 },
    Nothing,
    Error(DecodeErrorKind),
}

/// What the worker says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    /// Ready, with what the sandbox could do, for the log.
    Hello { text: &'a str },
    Result {
        status: Status,
        /// What it took, compiling included.
        took_us: u32,
        is_compiled: bool,
        runs_top_level: bool,
        /// Compiled decoders this worker keeps.
        num_cached: u32,
        /// JSON text, or the error's message.
        body: &'a [u8],
    },
    /// Lines of `name=outcome`.
    Checked { text: &'a str },
}

const KINDS: [DecodeErrorKind; 8] = [
    DecodeErrorKind::Script,
    DecodeErrorKind::Thrown,
    DecodeErrorKind::Result,
    DecodeErrorKind::Payload,
    DecodeErrorKind::Timeout,
    DecodeErrorKind::Memory,
    DecodeErrorKind::Crash,
    DecodeErrorKind::Quarantined,
];

/// Starts a frame at the end of a buffer; give the result to [`end_frame`].
pub fn begin_frame(out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    start
}

/// Writes the frame's length into its place.
pub fn end_frame(out: &mut [u8], start: usize) {
    let len = (out.len() - start - 4) as u32;
    out[start..start + 4].copy_from_slice(&len.to_le_bytes());
}

/// The first whole frame of a buffer and what it took, `None` when more has to come.
pub fn split_frame(buffer: &[u8]) -> Result<Option<(&[u8], usize)>, Malformed> {
    let Some(head) = buffer.first_chunk::<4>() else { return Ok(None) };
    let len = u32::from_le_bytes(*head) as usize;
    if len > FRAME_BYTES_MAX {
        return Err(Malformed);
    }
    Ok(buffer.get(4..4 + len).map(|frame| (frame, 4 + len)))
}

impl Request<'_> {
    /// Appends the entry.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Limits(limits) => {
                out.push(LIMITS);
                for number in [
                    limits.memory_bytes_max,
                    limits.stack_bytes_max,
                    limits.call_polls_max as usize,
                    limits.compile_polls_max as usize,
                    limits.source_bytes_max,
                    limits.result_bytes_max,
                    limits.images_bytes_max,
                ] {
                    out.extend_from_slice(&(number as u64).to_le_bytes());
                }
            }
            Self::Script { decoder, dialect, source } => {
                out.push(SCRIPT);
                out.extend_from_slice(&decoder.to_le_bytes());
                out.push(dialect.map_or(0, |d| d as u8 + 1));
                put_bytes(out, source.as_bytes());
            }
            Self::Job { decoder, received_at_ms, metadata, payload } => {
                out.push(JOB);
                out.extend_from_slice(&decoder.to_le_bytes());
                out.extend_from_slice(&received_at_ms.to_le_bytes());
                put_pieces(out, metadata.map(str::as_bytes));
                put_bytes(out, payload);
            }
            Self::Forget { decoder } => {
                out.push(FORGET);
                out.extend_from_slice(&decoder.to_le_bytes());
            }
            Self::SelfCheck => out.push(SELF_CHECK),
        }
    }
}

impl<'a> Request<'a> {
    /// Takes the first entry off a frame.
    pub fn read(frame: &mut &'a [u8]) -> Result<Self, Malformed> {
        Ok(match byte(frame)? {
            LIMITS => {
                let mut next = || Ok(u64::from_le_bytes(array(frame)?) as usize);
                Self::Limits(Limits {
                    memory_bytes_max: next()?,
                    stack_bytes_max: next()?,
                    call_polls_max: next()? as u32,
                    compile_polls_max: next()? as u32,
                    source_bytes_max: next()?,
                    result_bytes_max: next()?,
                    images_bytes_max: next()?,
                })
            }
            SCRIPT => Self::Script {
                decoder: i64::from_le_bytes(array(frame)?),
                dialect: match byte(frame)? {
                    0 => None,
                    n => Some(*Dialect::ALL.get(n as usize - 1).ok_or(Malformed)?),
                },
                source: text(frame)?,
            },
            JOB => Self::Job {
                decoder: i64::from_le_bytes(array(frame)?),
                received_at_ms: i64::from_le_bytes(array(frame)?),
                metadata: [text(frame)?, ""],
                payload: bytes(frame)?,
            },
            FORGET => Self::Forget { decoder: i64::from_le_bytes(array(frame)?) },
            SELF_CHECK => Self::SelfCheck,
            _ => return Err(Malformed),
        })
    }
}

impl Reply<'_> {
    /// Appends the entry.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Hello { text } => {
                out.push(HELLO);
                put_bytes(out, text.as_bytes());
            }
            Self::Result { status, took_us, is_compiled, runs_top_level, num_cached, body } => {
                out.push(RESULT);
                let (code, num_warnings) = match status {
                    Status::Value { num_warnings } => (0, *num_warnings),
                    Status::Nothing => (1, 0),
                    Status::Error(kind) => (2 + KINDS.iter().position(|k| k == kind).unwrap_or(0) as u8, 0),
                };
                out.push(code);
                out.push(u8::from(*is_compiled) | u8::from(*runs_top_level) << 1);
                out.extend_from_slice(&num_warnings.to_le_bytes());
                out.extend_from_slice(&took_us.to_le_bytes());
                out.extend_from_slice(&num_cached.to_le_bytes());
                put_bytes(out, body);
            }
            Self::Checked { text } => {
                out.push(CHECKED);
                put_bytes(out, text.as_bytes());
            }
        }
    }
}

impl<'a> Reply<'a> {
    /// Takes the first entry off a frame.
    pub fn read(frame: &mut &'a [u8]) -> Result<Self, Malformed> {
        Ok(match byte(frame)? {
            HELLO => Self::Hello { text: text(frame)? },
            RESULT => {
                let code = byte(frame)?;
                let flags = byte(frame)?;
                let num_warnings = u32::from_le_bytes(array(frame)?);
                let status = match code {
                    0 => Status::Value { num_warnings },
                    1 => Status::Nothing,
                    n => Status::Error(*KINDS.get(n as usize - 2).ok_or(Malformed)?),
                };
                Self::Result {
                    status,
                    is_compiled: flags & 1 != 0,
                    runs_top_level: flags & 2 != 0,
                    took_us: u32::from_le_bytes(array(frame)?),
                    num_cached: u32::from_le_bytes(array(frame)?),
                    body: bytes(frame)?,
                }
            }
            CHECKED => Self::Checked { text: text(frame)? },
            _ => return Err(Malformed),
        })
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_pieces(out, [bytes, &[]]);
}

fn put_pieces(out: &mut Vec<u8>, pieces: [&[u8]; 2]) {
    let num_bytes: usize = pieces.iter().map(|piece| piece.len()).sum();
    out.extend_from_slice(&(num_bytes as u32).to_le_bytes());
    pieces.iter().for_each(|piece| out.extend_from_slice(piece));
}

fn byte(frame: &mut &[u8]) -> Result<u8, Malformed> {
    let (first, rest) = frame.split_first().ok_or(Malformed)?;
    *frame = rest;
    Ok(*first)
}

fn array<const N: usize>(frame: &mut &[u8]) -> Result<[u8; N], Malformed> {
    let (first, rest) = frame.split_first_chunk::<N>().ok_or(Malformed)?;
    *frame = rest;
    Ok(*first)
}

fn bytes<'a>(frame: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    let len = u32::from_le_bytes(array(frame)?) as usize;
    let (first, rest) = frame.split_at_checked(len).ok_or(Malformed)?;
    *frame = rest;
    Ok(first)
}

fn text<'a>(frame: &mut &'a [u8]) -> Result<&'a str, Malformed> {
    std::str::from_utf8(bytes(frame)?).map_err(|_| Malformed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_request_and_reply_comes_back_as_it_went() {
        let requests = [
            Request::Limits(Limits::default()),
            Request::Script { decoder: 7, dialect: None, source: "a" },
            Request::Script { decoder: -7, dialect: Some(Dialect::Ttn2), source: "\0æ" },
            Request::Job { decoder: i64::MIN, received_at_ms: -1, metadata: ["{}", ""], payload: b"\xff" },
            Request::Forget { decoder: 1 },
            Request::SelfCheck,
        ];
        let mut out = Vec::new();
        let start = begin_frame(&mut out);
        requests.iter().for_each(|r| r.write(&mut out));
        end_frame(&mut out, start);
        let (mut frame, used) = split_frame(&out).unwrap().unwrap();
        assert_eq!(used, out.len());
        for request in requests {
            assert_eq!(Request::read(&mut frame).unwrap(), request);
        }
        assert!(frame.is_empty());

        for status in
            [Status::Value { num_warnings: 3 }, Status::Nothing].into_iter().chain(KINDS.into_iter().map(Status::Error))
        {
            let reply = Reply::Result {
                status,
                took_us: 5,
                is_compiled: true,
                runs_top_level: false,
                num_cached: 9,
                body: b"{}",
            };
            let mut out = Vec::new();
            reply.write(&mut out);
            assert_eq!(Reply::read(&mut out.as_slice()).unwrap(), reply);
        }
    }

    #[test]
    fn half_a_frame_waits_for_the_rest_and_a_huge_one_is_refused() {
        assert_eq!(split_frame(&[5, 0, 0]), Ok(None));
        assert_eq!(split_frame(&[5, 0, 0, 0, 1]), Ok(None));
        assert_eq!(split_frame(&[1, 0, 0, 0, 9, 9]), Ok(Some((&[9][..], 5))));
        assert_eq!(split_frame(&[255, 255, 255, 255]), Err(Malformed));
    }

    proptest! {
        #[test]
        fn garbage_is_refused_without_a_panic(garbage in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut frame = garbage.as_slice();
            while !frame.is_empty() && Reply::read(&mut frame).is_ok() {}
            let mut frame = garbage.as_slice();
            while !frame.is_empty() && Request::read(&mut frame).is_ok() {}
        }
    }
}
