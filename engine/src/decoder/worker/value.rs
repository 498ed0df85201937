//! Small helpers over QuickJS's C API. Nothing here frees a value: after each message the whole arena is put back, which
//! frees everything at once, and cheaper.
#![allow(unsafe_code, clippy::unnecessary_cast)]

use std::ffi::{CStr, c_int};

use rquickjs::qjs::{self, JSAtom, JSContext, JSValue};

/// Property flags of built-in methods: writable and configurable, but not enumerable.
pub const HIDDEN: u32 = qjs::JS_PROP_WRITABLE | qjs::JS_PROP_CONFIGURABLE;

/// Reads a property; may run a getter and may be an exception.
///
/// # Safety
/// `ctx` and `object` are live.
pub unsafe fn get(ctx: *mut JSContext, object: JSValue, name: &CStr) -> JSValue {
    // SAFETY: see above.
    unsafe { qjs::JS_GetPropertyStr(ctx, object, name.as_ptr()) }
}

/// Defines an own property, whatever stood there.
///
/// # Safety
/// `ctx`, `object` and `value` are live.
pub unsafe fn define(ctx: *mut JSContext, object: JSValue, name: &CStr, value: JSValue, flags: u32) {
    // SAFETY: see above.
    unsafe {
        let atom = atom(ctx, name.to_bytes());
        qjs::JS_DefinePropertyValue(ctx, object, atom, value, flags as c_int);
    }
}

/// The atom of a property name.
///
/// # Safety
/// `ctx` is live.
pub unsafe fn atom(ctx: *mut JSContext, utf8: &[u8]) -> JSAtom {
    // SAFETY: the text is copied.
    unsafe { qjs::JS_NewAtomLen(ctx, utf8.as_ptr().cast(), utf8.len() as qjs::size_t) }
}

/// A string from UTF-8.
///
/// # Safety
/// `ctx` is live.
pub unsafe fn string(ctx: *mut JSContext, utf8: &[u8]) -> JSValue {
    // SAFETY: the text is copied.
    unsafe { qjs::JS_NewStringLen(ctx, utf8.as_ptr().cast(), utf8.len() as qjs::size_t) }
}

/// A native function with values of its own.
///
/// # Safety
/// `ctx` is live; `native` keeps to the API.
pub unsafe fn function(
    ctx: *mut JSContext,
    native: unsafe extern "C" fn(*mut JSContext, JSValue, c_int, *mut JSValue, c_int, *mut JSValue) -> JSValue,
    num_arguments: c_int,
    data: &mut [JSValue],
) -> JSValue {
    // SAFETY: the data values are duplicated by QuickJS.
    unsafe { qjs::JS_NewCFunctionData(ctx, Some(native), num_arguments, 0, data.len() as c_int, data.as_mut_ptr()) }
}

/// The text of a value as JavaScript would make it, in UTF-8 where unpaired surrogates stand as three bytes of their own;
/// `None` when that raised an exception. Valid until the next restore.
///
/// # Safety
/// `ctx` and `value` are live; the result is not used after a restore.
pub unsafe fn text<'a>(ctx: *mut JSContext, value: JSValue) -> Option<&'a [u8]> {
    let mut len = 0usize;
    // SAFETY: the buffer belongs to a string in the arena, which is never freed within a call.
    unsafe {
        let chars = qjs::JS_ToCStringLen(ctx, &mut len, value);
        (!chars.is_null()).then(|| std::slice::from_raw_parts(chars.cast::<u8>(), len))
    }
}
