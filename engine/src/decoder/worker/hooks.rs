//! Built-in functions that go through us: those that read the clock or draw random numbers, and native loops that never ask
//! the interrupt handler.
//!
//! `Date` and `Math.random` behave as before, but leave a mark: a script whose top level reads either has to run its top
//! level again for each message (a restored image would show it a stale clock). `Math.random` draws from a generator outside
//! the arena, so that not every message sees the same numbers.
//!
//! The guards charge native loops to the script's budget by the length they are about to walk. They are no boundary (the
//! parent's watchdog is), but they turn the cheapest attacks into an ordinary "over its limit of work".
#![allow(unsafe_code)]

use std::ffi::{CStr, c_int};

use rquickjs::qjs::{self, JSContext, JSValue};

use super::shared::Shared;
use super::value;

/// Native loops walk about this many elements in the time of one interrupt poll.
const ELEMENTS_PER_POLL: u64 = 10_000;
/// String searches compare about this many characters in that time.
const COMPARISONS_PER_POLL: u64 = 200_000;
/// Shorter strings and arrays are not worth charging.
const FREE_LEN: u64 = 4_096;

/// Array methods that walk `length` without asking the interrupt handler.
const ARRAY_LOOPS: [&CStr; 12] = [
    c"reverse",
    c"copyWithin",
    c"join",
    c"sort",
    c"shift",
    c"unshift",
    c"splice",
    c"slice",
    c"flat",
    c"concat",
    c"toLocaleString",
    c"fill",
];
/// String methods that are quadratic in the worst case.
const STRING_SEARCHES: [&CStr; 4] = [c"indexOf", c"lastIndexOf", c"includes", c"split"];

/// Installs all hooks in a fresh context.
///
/// # Safety
/// `ctx` is a live context of an engine in which no script has run yet.
pub unsafe fn install(ctx: *mut JSContext) {
    // SAFETY: plain use of the API on a live context; the functions' signatures are the ones QuickJS calls them with.
    unsafe {
        let global = qjs::JS_GetGlobalObject(ctx);
        let date = value::get(ctx, global, c"Date");
        let proto = value::get(ctx, date, c"prototype");
        Shared::of(ctx).date.set(date);
        let kind = qjs::JSCFunctionEnum_JS_CFUNC_constructor_or_func;
        let wrapped = qjs::JS_NewCFunction2(ctx, Some(date_constructor), c"Date".as_ptr(), 7, kind, 0);
        for name in [c"parse", c"UTC"] {
            value::define(ctx, wrapped, name, value::get(ctx, date, name), value::HIDDEN);
        }
        let now = value::get(ctx, date, c"now");
        define_method(ctx, wrapped, c"now", value::function(ctx, clock_read, 0, &mut [now]));
        qjs::JS_SetConstructor(ctx, wrapped, proto);
        // `prototype` of a built-in constructor can be neither written nor deleted.
        value::define(ctx, wrapped, c"prototype", proto, 0);
        value::define(ctx, global, c"Date", wrapped, value::HIDDEN);

        let math = value::get(ctx, global, c"Math");
        define_method(ctx, math, c"random", value::function(ctx, random, 0, &mut []));

        let array_proto = value::get(ctx, value::get(ctx, global, c"Array"), c"prototype");
        for name in ARRAY_LOOPS {
            guard(ctx, array_proto, name, array_loop);
        }
        let string = value::get(ctx, global, c"String");
        let string_proto = value::get(ctx, string, c"prototype");
        for name in STRING_SEARCHES {
            guard(ctx, string_proto, name, string_search);
        }
        guard(ctx, string, c"raw", string_raw);
    }
}

type Native = unsafe extern "C" fn(*mut JSContext, JSValue, c_int, *mut JSValue, c_int, *mut JSValue) -> JSValue;

unsafe fn guard(ctx: *mut JSContext, holder: JSValue, name: &CStr, native: Native) {
    // SAFETY: see `install`.
    unsafe {
        let original = value::get(ctx, holder, name);
        if !qjs::JS_IsFunction(ctx, original) {
            return;
        }
        let mut len = 0i64;
        qjs::JS_GetLength(ctx, original, &mut len);
        define_method(ctx, holder, name, value::function(ctx, native, len as c_int, &mut [original]));
    }
}

/// Defines a method as built-in ones are: named, writable, configurable, not enumerable.
unsafe fn define_method(ctx: *mut JSContext, holder: JSValue, name: &CStr, function: JSValue) {
    // SAFETY: see `install`.
    unsafe {
        value::define(ctx, function, c"name", value::string(ctx, name.to_bytes()), qjs::JS_PROP_CONFIGURABLE);
        value::define(ctx, holder, name, function, value::HIDDEN);
    }
}

/// `Date(...)` and `new Date(...)`: the new target is undefined for a call.
unsafe extern "C" fn date_constructor(
    ctx: *mut JSContext,
    new_target: JSValue,
    argc: c_int,
    argv: *mut JSValue,
) -> JSValue {
    // SAFETY: QuickJS hands over a live context and `argc` arguments; the original `Date` lives in every image.
    unsafe {
        let shared = Shared::of(ctx);
        let is_call = qjs::JS_IsUndefined(new_target);
        if argc == 0 || is_call {
            shared.has_read_clock.set(true);
        }
        if is_call {
            return qjs::JS_Call(ctx, shared.date.get(), qjs::JS_UNDEFINED, argc, argv);
        }
        qjs::JS_CallConstructor2(ctx, shared.date.get(), new_target, argc, argv)
    }
}

/// `Date.now()`.
unsafe extern "C" fn clock_read(
    ctx: *mut JSContext,
    this: JSValue,
    argc: c_int,
    argv: *mut JSValue,
    _magic: c_int,
    data: *mut JSValue,
) -> JSValue {
    // SAFETY: as above.
    unsafe {
        Shared::of(ctx).has_read_clock.set(true);
        qjs::JS_Call(ctx, *data, this, argc, argv)
    }
}

/// `Math.random()`.
unsafe extern "C" fn random(
    ctx: *mut JSContext,
    _this: JSValue,
    _argc: c_int,
    _argv: *mut JSValue,
    _magic: c_int,
    _data: *mut JSValue,
) -> JSValue {
    // SAFETY: as above.
    unsafe {
        let shared = Shared::of(ctx);
        shared.has_read_clock.set(true);
        qjs::JS_NewFloat64(shared.next_random())
    }
}

/// Charges a native loop, or raises what an endless loop raises.
unsafe fn charge(ctx: *mut JSContext, polls: u64) -> bool {
    // SAFETY: the context is live.
    unsafe {
        if Shared::of(ctx).charge(u32::try_from(polls).unwrap_or(u32::MAX)) {
            return true;
        }
        qjs::JS_ThrowRangeError(ctx, c"interrupted".as_ptr());
        let thrown = qjs::JS_GetException(ctx);
        qjs::JS_SetUncatchableError(ctx, thrown);
        qjs::JS_Throw(ctx, thrown);
        false
    }
}

/// `length` of an object or string, or an exception.
unsafe fn length(ctx: *mut JSContext, of: JSValue) -> Option<u64> {
    let mut len = 0i64;
    // SAFETY: the context and the value are live.
    let status = unsafe { qjs::JS_GetLength(ctx, of, &mut len) };
    (status >= 0).then_some(u64::try_from(len).unwrap_or(0))
}

unsafe extern "C" fn array_loop(
    ctx: *mut JSContext,
    this: JSValue,
    argc: c_int,
    argv: *mut JSValue,
    _magic: c_int,
    data: *mut JSValue,
) -> JSValue {
    // SAFETY: as above.
    unsafe {
        let mut total = 0;
        if qjs::JS_IsObject(this) {
            let Some(len) = length(ctx, this) else { return qjs::JS_EXCEPTION };
            total = len;
        }
        // `concat` walks its arguments, too.
        for at in 0..argc as usize {
            let argument = *argv.add(at);
            if qjs::JS_IsArray(argument) {
                let Some(len) = length(ctx, argument) else { return qjs::JS_EXCEPTION };
                total = total.saturating_add(len);
            }
        }
        if total > FREE_LEN && !charge(ctx, total.div_ceil(ELEMENTS_PER_POLL)) {
            return qjs::JS_EXCEPTION;
        }
        qjs::JS_Call(ctx, *data, this, argc, argv)
    }
}

unsafe extern "C" fn string_search(
    ctx: *mut JSContext,
    this: JSValue,
    argc: c_int,
    argv: *mut JSValue,
    _magic: c_int,
    data: *mut JSValue,
) -> JSValue {
    // SAFETY: as above.
    unsafe {
        if argc > 0 && qjs::JS_IsString(this) && qjs::JS_IsString(*argv) {
            let (Some(text), Some(needle)) = (length(ctx, this), length(ctx, *argv)) else { return qjs::JS_EXCEPTION };
            let is_long = text > FREE_LEN && needle > 16;
            if is_long
                && !charge(ctx, text.saturating_mul(needle).div_ceil(COMPARISONS_PER_POLL).min(u64::from(u32::MAX)))
            {
                return qjs::JS_EXCEPTION;
            }
        }
        qjs::JS_Call(ctx, *data, this, argc, argv)
    }
}

unsafe extern "C" fn string_raw(
    ctx: *mut JSContext,
    this: JSValue,
    argc: c_int,
    argv: *mut JSValue,
    _magic: c_int,
    data: *mut JSValue,
) -> JSValue {
    // SAFETY: as above.
    unsafe {
        if argc > 0 && qjs::JS_IsObject(*argv) {
            let raw = value::get(ctx, *argv, c"raw");
            if qjs::JS_IsException(raw) {
                return raw;
            }
            if qjs::JS_IsObject(raw) {
                let Some(len) = length(ctx, raw) else { return qjs::JS_EXCEPTION };
                if len > FREE_LEN && !charge(ctx, len.div_ceil(ELEMENTS_PER_POLL)) {
                    return qjs::JS_EXCEPTION;
                }
            }
        }
        qjs::JS_Call(ctx, *data, this, argc, argv)
    }
}
