//! Calling an entry function: each dialect's arguments, and what each makes of the result.
//!
//! `bytes` is a new plain array of numbers for every call, whatever the dialect: scripts write to it, and use `concat`, `slice` and
//! `map` as only arrays have them. Actility's published examples show hex text and a text `recvTime`, but its platform hands drivers
//! an array and a `Date`, as TS013 says, and so do we.
#![allow(unsafe_code)]

use std::ffi::c_int;

use rquickjs::qjs::{self, JSValue};
use sluse_schema::device::Dialect;
use sluse_schema::port::{DecodeError, DecodeErrorKind};

use super::engine::{Call, Engine, Entry, Outcome};
use super::frame::{Frame, frame_of};
use super::input::Dates;
use super::output::Written;
use super::thrown::{MESSAGE_BYTES_MAX, cut};
use super::value;

/// A message as its dialect wants it, checked before any JavaScript runs.
pub(super) enum Input<'a> {
    Event { payload: &'a str, metadata: &'a str },
    Frame { frame: Frame, received_at_ms: i64 },
}

impl<'a> Input<'a> {
    pub(super) fn of(dialect: Dialect, call: Call<'a>) -> Result<Self, DecodeError> {
        let payload_error = |message: String| DecodeError { kind: DecodeErrorKind::Payload, message };
        let payload = sluse_schema::text::of_utf8(call.payload)
            .map_err(|_| payload_error("the payload is not UTF-8 text".to_owned()))?;
        if dialect == Dialect::Os2iot {
            return Ok(Self::Event { payload, metadata: call.metadata });
        }
        let frame = frame_of(payload).map_err(payload_error)?;
        Ok(Self::Frame { frame, received_at_ms: call.received_at_ms })
    }
}

/// Calls the entry function and appends the result's text.
///
/// # Safety
/// `entry` is of the image that the engine's arena holds.
pub(super) unsafe fn call(
    engine: &Engine,
    dialect: Dialect,
    entry: Entry,
    input: &Input<'_>,
    out: &mut Vec<u8>,
) -> Result<Outcome, DecodeError> {
    engine.shared.lazy.borrow_mut().clear();
    engine.shared.input.borrow_mut().clear();
    // SAFETY: arguments are made in the restored image; see above.
    unsafe {
        let mut arguments = arguments(engine, dialect, input)?;
        let argc = arguments.len() as c_int;
        let result = qjs::JS_Call(engine.ctx, entry.function, entry.this, argc, arguments.as_mut_ptr());
        if qjs::JS_IsException(result) {
            return Err(engine.take_error(DecodeErrorKind::Thrown));
        }
        if qjs::JS_IsUndefined(result) {
            return Ok(Outcome::Nothing);
        }
        let (value, num_warnings) = match dialect {
            Dialect::Ts013 | Dialect::Actility => data_of(engine, result)?,
            Dialect::Os2iot | Dialect::Chirpstack3 | Dialect::Ttn2 => (result, 0),
        };
        Ok(match engine.write(value, out)? {
            Written::Text => Outcome::Value { num_warnings },
            Written::Nothing => Outcome::Nothing,
        })
    }
}

unsafe fn arguments(engine: &Engine, dialect: Dialect, input: &Input<'_>) -> Result<Vec<JSValue>, DecodeError> {
    let ctx = engine.ctx;
    // SAFETY: see `call`.
    unsafe {
        match input {
            Input::Event { payload, metadata } => {
                let payload = engine.build(payload, Dates::Keep);
                if qjs::JS_IsException(payload) {
                    let mut error = engine.take_error(DecodeErrorKind::Payload);
                    if error.kind == DecodeErrorKind::Payload {
                        error.message = format!("the payload is not JSON: {}", error.message);
                    }
                    return Err(error);
                }
                let metadata = engine.build(metadata, Dates::Convert);
                if qjs::JS_IsException(metadata) {
                    return Err(engine.take_error(DecodeErrorKind::Payload));
                }
                Ok(vec![payload, metadata])
            }
            Input::Frame { frame, received_at_ms } => {
                let mut numbers: Vec<JSValue> =
                    frame.bytes.iter().map(|b| qjs::JS_MKVAL(qjs::JS_TAG_INT, i32::from(*b))).collect();
                let bytes = qjs::JS_NewArrayFrom(ctx, numbers.len() as c_int, numbers.as_mut_ptr());
                let port = qjs::JS_NewFloat64(f64::from(frame.f_port));
                let variables = qjs::JS_NewObject(ctx);
                Ok(match dialect {
                    Dialect::Chirpstack3 => vec![port, bytes, variables],
                    Dialect::Ttn2 => vec![bytes, port],
                    Dialect::Os2iot | Dialect::Ts013 | Dialect::Actility => {
                        let input = qjs::JS_NewObject(ctx);
                        let received_at = qjs::JS_NewDate(ctx, *received_at_ms as f64);
                        for (name, member) in
                            [(c"bytes", bytes), (c"fPort", port), (c"recvTime", received_at), (c"variables", variables)]
                        {
                            value::define(ctx, input, name, member, qjs::JS_PROP_C_W_E);
                        }
                        vec![input]
                    }
                })
            }
        }
    }
}

/// `data` of a TS013 result and the number of its warnings, or its errors as an error.
unsafe fn data_of(engine: &Engine, result: JSValue) -> Result<(JSValue, u32), DecodeError> {
    let ctx = engine.ctx;
    // SAFETY: see `call`.
    unsafe {
        if !engine.builtins.is_plain_object(result) {
            let what = if qjs::JS_IsPromise(result) { "a promise" } else { "no object" };
            let message = format!("decodeUplink returned {what}: it must return {{ data, warnings, errors }}");
            return Err(DecodeError { kind: DecodeErrorKind::Result, message });
        }
        let member = |name| {
            let v = value::get(ctx, result, name);
            if qjs::JS_IsException(v) { Err(engine.take_error(DecodeErrorKind::Thrown)) } else { Ok(v) }
        };
        let errors = texts(engine, member(c"errors")?)?;
        if !errors.is_empty() {
            let mut message = format!("the script returned errors: {}", errors.join("; "));
            cut(&mut message, MESSAGE_BYTES_MAX - 8);
            return Err(DecodeError { kind: DecodeErrorKind::Thrown, message });
        }
        let num_warnings = texts(engine, member(c"warnings")?)?.len() as u32;
        Ok((member(c"data")?, num_warnings))
    }
}

/// The texts of `errors` or `warnings`: an array of anything, or a single text.
unsafe fn texts(engine: &Engine, list: JSValue) -> Result<Vec<String>, DecodeError> {
    const NUM_MAX: i64 = 1_000;
    let ctx = engine.ctx;
    // SAFETY: see `call`.
    unsafe {
        let text_of = |v: JSValue| {
            let mut json = Vec::new();
            if qjs::JS_IsObject(v) && engine.write(v, &mut json).is_ok() {
                return String::from_utf8_lossy(&json).into_owned();
            }
            match value::text(ctx, v) {
                Some(text) => String::from_utf8_lossy(text).into_owned(),
                None => engine.take_error(DecodeErrorKind::Thrown).message,
            }
        };
        if qjs::JS_IsString(list) {
            let text = text_of(list);
            return Ok(if text.is_empty() { Vec::new() } else { vec![text] });
        }
        if !qjs::JS_IsArray(list) {
            return Ok(Vec::new());
        }
        let mut len = 0i64;
        if qjs::JS_GetLength(ctx, list, &mut len) < 0 {
            return Err(engine.take_error(DecodeErrorKind::Thrown));
        }
        Ok((0..len.min(NUM_MAX)).map(|at| text_of(qjs::JS_GetPropertyInt64(ctx, list, at))).collect())
    }
}
