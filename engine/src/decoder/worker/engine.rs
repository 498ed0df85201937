//! QuickJS as this worker uses it: one arena, and one image per decoder.
//!
//! **Isolation.** The base image is a runtime with our prelude. A decoder is compiled by restoring the base, running the script's
//! top level, and taking an image of the whole heap. Every message starts by putting that image back, byte for byte, so nothing that an
//! earlier message did can be there: no counter, no implicit global, no patched prototype, no cached object, no closure,
//! generator or `lastIndex`, no internal state of the engine either. Nothing has to be proven about the script, and a call never
//! frees anything, runs no collector and survives running out of memory. The price is one copy of 100 to 300 kB per message (see
//! `benches/decode.rs` for both costs); the gain is that "reused" and "fresh" are the same thing.
//!
//! One thing must not come from the image: what the top level learned from the clock or from `Math.random`. A script whose top
//! level asked for either (`hooks` notices) is imaged before its top level ran, and runs it for every message.
//!
//! What lies outside the arena, and so is not undone: [`Shared`] (reset at the start of each call, except the generator
//! behind `Math.random`) and QuickJS's constants. Features of QuickJS with state of their own in C (`Atomics`, shared buffers,
//! workers) are not given to scripts.
//!
//! Limits: memory 8 MiB, stack 256 KiB, work in interrupt polls (10 000 jumps or calls each), source 512 KiB.
#![allow(unsafe_code, clippy::unnecessary_cast)]

use std::ffi::{CStr, c_int, c_void};

use rquickjs::qjs::{self, JSContext, JSRuntime, JSValue};
use sluse_schema::device::Dialect;
use sluse_schema::port::{DecodeError, DecodeErrorKind};

use super::arena::{Arena, Image};
use super::input::{self, Accessors, Dates};
use super::output::{self, Builtins, Unsendable, Written};
use super::shared::Shared;
use super::thrown::Thrown;
use super::{hooks, thrown, value};
use crate::decoder::config::Limits;
use crate::decoder::dialect::{self, Found};

const PRELUDE: &CStr = c"(prelude)";
/// The name of the script in stack traces, from which line numbers are read.
pub(super) const SCRIPT_NAME: &CStr = c"decoder.js";
/// Addresses reserved beyond the memory limit, for what fragmentation costs.
const ARENA_SLACK_BYTES: usize = 16 << 20;

/// Asks for every entry function a script may have; see [`Found`]. Reads names only, so that nothing is created.
const PROBE: &str = r#"(() => {
  const is = (f) => typeof f === 'function' ? f : undefined;
  const at = (o) => { try { return o && is(o.decodeUplink) ? o : undefined } catch { return undefined } };
  const d = at(typeof driver === 'undefined' ? undefined : driver);
  const m = typeof module === 'undefined' || !module ? undefined : module.exports;
  const e = at(m) || at(m && m.driver) || at(typeof exports === 'undefined' ? undefined : exports);
  return [
    typeof decode === 'undefined' ? undefined : is(decode),
    typeof decodeUplink === 'undefined' ? undefined : is(decodeUplink),
    d && d.decodeUplink, d,
    typeof Decode === 'undefined' ? undefined : is(Decode),
    typeof Decoder === 'undefined' ? undefined : is(Decoder),
    e && e.decodeUplink, e,
  ];
})()"#;

/// What scripts of the Actility dialect get besides.
/// Plain properties rather than variables, so that a script may declare its own.
const MODULE: &str = "globalThis.module = { exports: {} }; globalThis.exports = globalThis.module.exports;";

/// The function to call, with its `this`.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    pub function: JSValue,
    pub this: JSValue,
}

/// A decoder, ready to run.
pub struct Compiled {
    image: Image,
    start: Start,
    /// What the script speaks.
    pub dialect: Dialect,
}

enum Start {
    /// The image was taken after the top level.
    Entry(Entry),
    /// The image was taken before: this program runs first.
    TopLevel(JSValue),
}

impl Compiled {
    /// Bytes that keeping it costs.
    pub fn num_bytes(&self) -> usize {
        self.image.len()
    }

    /// Whether its top level runs for every message.
    pub fn runs_top_level_each_time(&self) -> bool {
        matches!(self.start, Start::TopLevel(_))
    }
}

impl std::fmt::Debug for Compiled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compiled").field("image", &self.image).field("dialect", &self.dialect).finish_non_exhaustive()
    }
}

/// One message.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    pub payload: &'a [u8],
    pub metadata: &'a str,
    pub received_at_ms: i64,
}

/// What came of a message; the text was appended to the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Value { num_warnings: u32 },
    Nothing,
}

/// See the module's header. Stays on the thread that made it.
pub struct Engine {
    arena: Arena,
    pub(super) rt: *mut JSRuntime,
    pub(super) ctx: *mut JSContext,
    pub(super) shared: Box<Shared>,
    base: Image,
    /// The base with `Buffer`, `TextDecoder` and `TextEncoder`, for scripts that name one.
    base_with_codecs: Image,
    pub(super) builtins: Builtins,
    pub(super) accessors: Accessors,
    function_to_string: JSValue,
    probe: JSValue,
    pub(super) limits: Limits,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("base", &self.base).finish_non_exhaustive()
    }
}

unsafe extern "C" fn on_interrupt(_rt: *mut JSRuntime, opaque: *mut c_void) -> c_int {
    // SAFETY: the opaque is the engine's boxed `Shared`, which outlives the runtime.
    let shared = unsafe { &*opaque.cast::<Shared>() };
    c_int::from(!shared.charge(1))
}

impl Engine {
    /// Makes the runtime and the base images.
    ///
    /// # Errors
    /// When memory or the prelude fails: a bug or a machine without memory.
    pub fn new(limits: Limits) -> Result<Self, String> {
        let arena = Arena::new(limits.memory_bytes_max + ARENA_SLACK_BYTES, limits.memory_bytes_max)
            .map_err(|e| format!("no memory: {e}"))?;
        let shared = Box::<Shared>::default();
        let opaque = std::ptr::from_ref(&*shared).cast_mut().cast::<c_void>();
        // SAFETY: a fresh runtime in a fresh arena; `shared` is boxed and lives as long as the engine.
        unsafe {
            let (functions, base_address) = arena.malloc_functions();
            let rt = qjs::JS_NewRuntime2(&functions, base_address);
            if rt.is_null() {
                return Err("no memory for a runtime".into());
            }
            qjs::JS_SetRuntimeOpaque(rt, opaque);
            qjs::JS_SetInterruptHandler(rt, Some(on_interrupt), opaque);
            qjs::JS_SetMaxStackSize(rt, limits.stack_bytes_max as qjs::size_t);
            let ctx = qjs::JS_NewContextRaw(rt);
            if ctx.is_null() {
                return Err("no memory for a context".into());
            }
            let failed = [
                qjs::JS_AddIntrinsicBaseObjects,
                qjs::JS_AddIntrinsicDate,
                qjs::JS_AddIntrinsicEval,
                qjs::JS_AddIntrinsicRegExp,
                qjs::JS_AddIntrinsicJSON,
                qjs::JS_AddIntrinsicProxy,
                qjs::JS_AddIntrinsicMapSet,
                qjs::JS_AddIntrinsicTypedArrays,
                qjs::JS_AddIntrinsicPromise,
                qjs::JS_AddIntrinsicAToB,
            ]
            .iter()
            .any(|add| add(ctx) != 0);
            if failed {
                return Err("no memory for the built-in objects".into());
            }
            let eval = |code: &str| eval(ctx, code, PRELUDE, qjs::JS_EVAL_TYPE_GLOBAL);
            let builtins = Builtins::new(eval);
            let function_to_string = eval("Function.prototype.toString");
            let accessors = Accessors::new(ctx);
            hooks::install(ctx);
            let done = eval(include_str!("prelude.js"));
            if qjs::JS_IsException(done) {
                return Err(format!("the prelude fails: {}", thrown::take(ctx).text()));
            }
            let probe = self::eval(ctx, PROBE, PRELUDE, qjs::JS_EVAL_FLAG_COMPILE_ONLY);
            qjs::JS_RunGC(rt);
            // No collection within a message unless it makes a lot of garbage.
            qjs::JS_SetGCThreshold(rt, 1 << 20);
            let base = arena.image();
            let done = eval(include_str!("text_codecs.js"));
            if qjs::JS_IsException(done) {
                return Err(format!("the text codecs fail: {}", thrown::take(ctx).text()));
            }
            qjs::JS_RunGC(rt);
            let base_with_codecs = arena.image();
            Ok(Self {
                arena,
                rt,
                ctx,
                shared,
                base,
                base_with_codecs,
                builtins,
                accessors,
                function_to_string,
                probe,
                limits,
            })
        }
    }

    /// Bytes of the base image, for figures.
    pub fn base_len(&self) -> usize {
        self.base.len()
    }

    /// Compiles a script and runs its top level.
    ///
    /// # Errors
    /// [`DecodeErrorKind::Script`] when the source does not parse, its top level throws or there is no entry function; over its
    /// limits, the kind of the limit.
    pub fn compile(&self, source: &str, dialect: Option<Dialect>) -> Result<Compiled, DecodeError> {
        if source.len() > self.limits.source_bytes_max {
            return Err(script_error(format!("the script is larger than {} KiB", self.limits.source_bytes_max >> 10)));
        }
        let wants_module = dialect == Some(Dialect::Actility);
        match self.compile_with(source, dialect, wants_module) {
            Err(NotCompiled::MayNeedModule(_)) if dialect.is_none() => {
                self.compile_with(source, dialect, true).map_err(NotCompiled::into_error)
            }
            other => other.map_err(NotCompiled::into_error),
        }
    }

    fn compile_with(&self, source: &str, dialect: Option<Dialect>, has_module: bool) -> Result<Compiled, NotCompiled> {
        self.arena.restore(if names_codecs(source) { &self.base_with_codecs } else { &self.base });
        // SAFETY: the base was just restored; values below belong to it or to what is compiled on top of it.
        unsafe {
            qjs::JS_UpdateStackTop(self.rt);
            self.shared.begin(self.limits.compile_polls_max);
            if has_module {
                eval(self.ctx, MODULE, PRELUDE, qjs::JS_EVAL_TYPE_GLOBAL);
            }
            let program = eval(self.ctx, source, SCRIPT_NAME, qjs::JS_EVAL_FLAG_COMPILE_ONLY);
            if qjs::JS_IsException(program) {
                return Err(NotCompiled::Failed(self.take_error(DecodeErrorKind::Script)));
            }
            let before = self.arena.image();
            let done = qjs::JS_EvalFunction(self.ctx, program);
            if qjs::JS_IsException(done) {
                let thrown = thrown::take(self.ctx);
                let is_about_module = thrown.is_about_module();
                let error = self.error_of(thrown, DecodeErrorKind::Script);
                return Err(if is_about_module {
                    NotCompiled::MayNeedModule(error)
                } else {
                    NotCompiled::Failed(error)
                });
            }
            let has_read_clock = self.shared.has_read_clock.get();
            let probed = self.probe().map_err(NotCompiled::Failed)?;
            let found = Found {
                decode: probed.decode.map(|f| self.source_of(f)),
                has_decode_uplink: probed.decode_uplink.is_some(),
                has_driver: probed.driver.is_some(),
                has_chirpstack3: probed.chirpstack3.is_some(),
                has_ttn2: probed.ttn2.is_some(),
                has_exports: probed.exports.is_some(),
            };
            let Some(spoken) = dialect.or_else(|| dialect::recognise(&found)) else {
                return Err(NotCompiled::MayNeedModule(script_error(
                    "the script has no entry function: decode, decodeUplink, driver.decodeUplink, Decode or Decoder"
                        .into(),
                )));
            };
            let entry = probed.entry(spoken).ok_or_else(|| {
                NotCompiled::Failed(script_error(format!("the script has no {}", dialect::entry_name(spoken))))
            })?;
            if has_read_clock {
                return Ok(Compiled { image: before, start: Start::TopLevel(program), dialect: spoken });
            }
            Ok(Compiled { image: self.arena.image(), start: Start::Entry(entry), dialect: spoken })
        }
    }

    /// Runs one message through a decoder and appends the JSON text of the result.
    ///
    /// # Errors
    /// What the script or the payload did wrong; the output is then as it was.
    pub fn run(&self, compiled: &Compiled, call: Call<'_>, out: &mut Vec<u8>) -> Result<Outcome, DecodeError> {
        let start = out.len();
        let result = self.run_inner(compiled, call, out);
        if !matches!(result, Ok(Outcome::Value { .. })) {
            out.truncate(start);
        }
        result
    }

    /// Puts a decoder's image back and does nothing else, to measure what isolation costs.
    pub fn restore_only(&self, compiled: &Compiled) {
        self.arena.restore(&compiled.image);
    }

    fn run_inner(&self, compiled: &Compiled, call: Call<'_>, out: &mut Vec<u8>) -> Result<Outcome, DecodeError> {
        let input = super::call::Input::of(compiled.dialect, call)?;
        self.arena.restore(&compiled.image);
        // SAFETY: the image was just restored; `program` and `entry` are values of that image.
        unsafe {
            qjs::JS_UpdateStackTop(self.rt);
            self.shared.begin(self.limits.call_polls_max);
            let entry = match compiled.start {
                Start::Entry(entry) => entry,
                Start::TopLevel(program) => {
                    if qjs::JS_IsException(qjs::JS_EvalFunction(self.ctx, program)) {
                        return Err(self.take_error(DecodeErrorKind::Thrown));
                    }
                    let probed = self.probe()?;
                    probed.entry(compiled.dialect).ok_or_else(|| {
                        script_error(format!(
                            "the script's top level left no {}",
                            dialect::entry_name(compiled.dialect)
                        ))
                    })?
                }
            };
            super::call::call(self, compiled.dialect, entry, &input, out)
        }
    }

    /// JSON text to a JavaScript value; see [`input::build`].
    pub(super) unsafe fn build(&self, json: &str, dates: Dates) -> JSValue {
        // SAFETY: context, shared part and accessors are this engine's.
        unsafe { input::build(self.ctx, &self.shared, &self.accessors, json, dates) }
    }

    /// The JSON text of a value; see [`output::write`].
    pub(super) unsafe fn write(&self, value: JSValue, out: &mut Vec<u8>) -> Result<Written, DecodeError> {
        // SAFETY: context and built-ins are this engine's.
        let written = unsafe { output::write(self.ctx, &self.builtins, value, out, self.limits.result_bytes_max) };
        written.map_err(|e| match e {
            Unsendable::Exception => self.take_error(DecodeErrorKind::Thrown),
            Unsendable::Refused(message) => DecodeError { kind: DecodeErrorKind::Result, message },
        })
    }

    /// The exception that waits in the context as an error.
    pub(super) fn take_error(&self, otherwise: DecodeErrorKind) -> DecodeError {
        // SAFETY: the context is live.
        let thrown = unsafe { thrown::take(self.ctx) };
        self.error_of(thrown, otherwise)
    }

    /// The error for the decoder's owner; limits have kinds of their own.
    fn error_of(&self, thrown: Thrown, otherwise: DecodeErrorKind) -> DecodeError {
        if self.shared.is_interrupted() {
            let message = "over its limit of work: the script ran too long (an endless loop?)".to_owned();
            return DecodeError { kind: DecodeErrorKind::Timeout, message };
        }
        // Without memory for an error object, QuickJS throws null.
        if self.arena.has_refused() && thrown.may_mean_no_memory() {
            let message = format!("over its limit of memory: {} MiB", self.limits.memory_bytes_max >> 20);
            return DecodeError { kind: DecodeErrorKind::Memory, message };
        }
        let kind = if thrown.is_about_size() { DecodeErrorKind::Memory } else { otherwise };
        DecodeError { kind, message: thrown.text() }
    }

    unsafe fn probe(&self) -> Result<Probed, DecodeError> {
        // SAFETY: the probe was compiled in the base image and is a value of every image.
        unsafe {
            let found = qjs::JS_EvalFunction(self.ctx, qjs::JS_DupValue(self.ctx, self.probe));
            if qjs::JS_IsException(found) {
                return Err(self.take_error(DecodeErrorKind::Script));
            }
            let at = |index: u32| {
                let value = qjs::JS_GetPropertyUint32(self.ctx, found, index);
                (!qjs::JS_IsUndefined(value) && !qjs::JS_IsException(value)).then_some(value)
            };
            let method = |function: u32, this: u32| Some(Entry { function: at(function)?, this: at(this)? });
            Ok(Probed {
                decode: at(0),
                decode_uplink: at(1),
                driver: method(2, 3),
                chirpstack3: at(4),
                ttn2: at(5),
                exports: method(6, 7),
            })
        }
    }

    unsafe fn source_of(&self, function: JSValue) -> String {
        // SAFETY: `toString` of functions is the built-in one, which runs no script.
        unsafe {
            let text = qjs::JS_Call(self.ctx, self.function_to_string, function, 0, std::ptr::null_mut());
            value::text(self.ctx, text).map(|t| String::from_utf8_lossy(t).into_owned()).unwrap_or_default()
        }
    }
}

struct Probed {
    decode: Option<JSValue>,
    decode_uplink: Option<JSValue>,
    driver: Option<Entry>,
    chirpstack3: Option<JSValue>,
    ttn2: Option<JSValue>,
    exports: Option<Entry>,
}

impl Probed {
    fn entry(&self, dialect: Dialect) -> Option<Entry> {
        let free = |function: Option<JSValue>| Some(Entry { function: function?, this: qjs::JS_UNDEFINED });
        match dialect {
            Dialect::Os2iot => free(self.decode),
            Dialect::Ts013 => free(self.decode_uplink),
            Dialect::Actility => self.driver.or(self.exports).or(free(self.decode_uplink)),
            Dialect::Chirpstack3 => free(self.chirpstack3),
            Dialect::Ttn2 => free(self.ttn2),
        }
    }
}

enum NotCompiled {
    /// Nothing was found, or the script asked for `module`: worth another try with one.
    MayNeedModule(DecodeError),
    Failed(DecodeError),
}

impl NotCompiled {
    fn into_error(self) -> DecodeError {
        match self {
            Self::MayNeedModule(error) | Self::Failed(error) => error,
        }
    }
}

fn script_error(message: String) -> DecodeError {
    DecodeError { kind: DecodeErrorKind::Script, message }
}

/// Whether the source names one of the text codecs. Naming one in a comment only costs a larger image.
fn names_codecs(source: &str) -> bool {
    source.contains("TextDecoder")
        || source.contains("TextEncoder")
        || source.match_indices("Buffer").any(|(at, _)| !source[..at].ends_with("Array"))
}

/// Evaluates (or compiles) sloppy global code.
unsafe fn eval(ctx: *mut JSContext, code: &str, name: &CStr, flags: u32) -> JSValue {
    let mut text = Vec::with_capacity(code.len() + 1);
    text.extend_from_slice(code.as_bytes());
    text.push(0);
    // SAFETY: the text ends in a NUL that its length leaves out.
    unsafe { qjs::JS_Eval(ctx, text.as_ptr().cast(), code.len() as qjs::size_t, name.as_ptr(), flags as c_int) }
}
