//! A decoder's result as JSON text: exactly what structured clone followed by `JSON.stringify` makes of it in Node, where the
//! reference runs decoders. So a `toJSON` method does not count, a `Date` is its ISO text, a `Map` is `{}`, a typed array is
//! `{"0":…}`, members that are undefined vanish, `NaN` is `null`; functions, symbols, promises, proxies, BigInts and cycles are
//! refused. An unpaired surrogate is written as `\ud800`, as `JSON.stringify` does, so that the text is always valid UTF-8.
//!
//! No script can change what happens here: built-in functions are those of the base image, not what a script put in their place.
//! Getters of the result do run, within the budget. Limits: 256 KiB of text, 100 levels.
#![allow(unsafe_code)]

use std::io::Write;

use rquickjs::qjs::{self, JSContext, JSValue};

use super::value;

/// Deeper results are refused; most JSON readers stop at 128.
const DEPTH_MAX: usize = 100;

/// Why a value has no JSON text.
#[derive(Debug, PartialEq, Eq)]
pub enum Unsendable {
    /// A getter threw, or memory or the budget ended: the exception waits in the context.
    Exception,
    /// The value cannot be sent; the text says why.
    Refused(String),
}

/// Whether there was anything to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    Text,
    /// `undefined`.
    Nothing,
}

/// Classes and built-in functions, learned in the base image before any script ran.
#[derive(Clone)]
pub struct Builtins {
    object: u32,
    date: u32,
    /// Written as `{}`, whatever is in them.
    empty: Vec<u32>,
    /// Objects around a primitive value, with the function that gives it.
    boxed: Vec<(u32, JSValue)>,
    to_iso_string: JSValue,
    get_time: JSValue,
    big_int_arrays: [i32; 2],
}

impl Builtins {
    /// Learns them.
    ///
    /// # Safety
    /// `ctx` is a live context without scripts, whose image will be the base of all others; `eval` evaluates in it.
    pub unsafe fn new(eval: impl Fn(&str) -> JSValue) -> Self {
        // SAFETY: only built-in code runs.
        unsafe {
            let class = |code: &str| qjs::JS_GetClassID(eval(code));
            Self {
                object: class("({})"),
                date: class("new Date(0)"),
                empty: [
                    "new Error('x')",
                    "/x/",
                    "new Map",
                    "new Set",
                    "new ArrayBuffer(1)",
                    "new DataView(new ArrayBuffer(1))",
                ]
                .map(class)
                .into(),
                boxed: vec![
                    (class("new Number(1)"), eval("Number.prototype.valueOf")),
                    (class("new String('')"), eval("String.prototype.valueOf")),
                    (class("new Boolean(true)"), eval("Boolean.prototype.valueOf")),
                    (class("Object(1n)"), eval("BigInt.prototype.valueOf")),
                ],
                to_iso_string: eval("Date.prototype.toISOString"),
                get_time: eval("Date.prototype.getTime"),
                big_int_arrays: [
                    qjs::JSTypedArrayEnum_JS_TYPED_ARRAY_BIG_INT64 as i32,
                    qjs::JSTypedArrayEnum_JS_TYPED_ARRAY_BIG_UINT64 as i32,
                ],
            }
        }
    }

    /// Whether the value is an object that could be a result with members.
    ///
    /// # Safety
    /// The value is live.
    pub unsafe fn is_plain_object(&self, value: JSValue) -> bool {
        // SAFETY: see above.
        unsafe { qjs::JS_IsObject(value) && qjs::JS_GetClassID(value) == self.object }
    }
}

/// Appends the JSON text of a value.
///
/// # Safety
/// `ctx` and `value` are live and belong to the engine of `builtins`.
pub unsafe fn write(
    ctx: *mut JSContext,
    builtins: &Builtins,
    value: JSValue,
    out: &mut Vec<u8>,
    len_max: usize,
) -> Result<Written, Unsendable> {
    let mut writer = Writer { ctx, builtins, end: out.len() + len_max, out, ancestors: Vec::new() };
    // SAFETY: see above.
    unsafe { writer.value(value) }
}

struct Writer<'a> {
    ctx: *mut JSContext,
    builtins: &'a Builtins,
    out: &'a mut Vec<u8>,
    /// `out` must not grow beyond this.
    end: usize,
    ancestors: Vec<*mut std::ffi::c_void>,
}

fn refused(text: impl Into<String>) -> Unsendable {
    Unsendable::Refused(text.into())
}

impl Writer<'_> {
    fn push(&mut self, bytes: &[u8]) -> Result<Written, Unsendable> {
        if self.out.len() + bytes.len() > self.end {
            return Err(self.too_large());
        }
        self.out.extend_from_slice(bytes);
        Ok(Written::Text)
    }

    fn too_large(&self) -> Unsendable {
        refused("the result is too large: its JSON text may have 256 KiB")
    }

    unsafe fn text<'t>(&self, value: JSValue) -> Result<&'t [u8], Unsendable> {
        // SAFETY: the text is used before the next restore.
        unsafe { value::text(self.ctx, value) }.ok_or(Unsendable::Exception)
    }

    unsafe fn value(&mut self, v: JSValue) -> Result<Written, Unsendable> {
        // SAFETY: each branch reads the union as its tag says.
        unsafe {
            match qjs::JS_VALUE_GET_TAG(v) {
                qjs::JS_TAG_UNDEFINED => Ok(Written::Nothing),
                qjs::JS_TAG_NULL => self.push(b"null"),
                qjs::JS_TAG_BOOL => self.push(if qjs::JS_VALUE_GET_BOOL(v) { b"true" } else { b"false" }),
                qjs::JS_TAG_INT => {
                    // Writing to memory cannot fail.
                    let _ = write!(self.out, "{}", qjs::JS_VALUE_GET_INT(v));
                    if self.out.len() > self.end { Err(self.too_large()) } else { Ok(Written::Text) }
                }
                qjs::JS_TAG_FLOAT64 => {
                    if !qjs::JS_VALUE_GET_FLOAT64(v).is_finite() {
                        return self.push(b"null");
                    }
                    let text = self.text(v)?;
                    self.push(text)
                }
                qjs::JS_TAG_STRING | qjs::JS_TAG_STRING_ROPE => {
                    let text = self.text(v)?;
                    self.quoted(text)
                }
                qjs::JS_TAG_BIG_INT | qjs::JS_TAG_SHORT_BIG_INT => {
                    Err(refused("the result contains a BigInt, which JSON has no text for"))
                }
                qjs::JS_TAG_SYMBOL => Err(refused("the result contains a symbol, which cannot be sent")),
                qjs::JS_TAG_OBJECT => self.object(v),
                qjs::JS_TAG_EXCEPTION => Err(Unsendable::Exception),
                _ => Err(refused("the result contains something that cannot be sent")),
            }
        }
    }

    unsafe fn object(&mut self, v: JSValue) -> Result<Written, Unsendable> {
        // SAFETY: `v` is an object; classes tell which functions fit it.
        unsafe {
            let class = qjs::JS_GetClassID(v);
            let is_array = qjs::JS_IsArray(v);
            if class == self.builtins.object || is_array {
                let at = qjs::JS_VALUE_GET_PTR(v);
                if self.ancestors.contains(&at) {
                    return Err(refused("the result contains itself (a cycle)"));
                }
                if self.ancestors.len() >= DEPTH_MAX {
                    return Err(refused(format!("the result is nested deeper than {DEPTH_MAX} levels")));
                }
                self.ancestors.push(at);
                let written = if is_array { self.array(v) } else { self.members(v) };
                self.ancestors.pop();
                return written;
            }
            if class == self.builtins.date {
                let time = qjs::JS_Call(self.ctx, self.builtins.get_time, v, 0, std::ptr::null_mut());
                let is_valid =
                    qjs::JS_IsNumber(time) && (qjs::JS_IsInt(time) || qjs::JS_VALUE_GET_FLOAT64(time).is_finite());
                if !is_valid {
                    return self.push(b"null");
                }
                let iso = qjs::JS_Call(self.ctx, self.builtins.to_iso_string, v, 0, std::ptr::null_mut());
                return self.value(iso);
            }
            if qjs::JS_GetTypedArrayType(v) >= 0 {
                return self.typed_array(v);
            }
            if self.builtins.empty.contains(&class) {
                return self.push(b"{}");
            }
            if let Some((_, value_of)) = self.builtins.boxed.iter().find(|(c, _)| *c == class) {
                let primitive = qjs::JS_Call(self.ctx, *value_of, v, 0, std::ptr::null_mut());
                return self.value(primitive);
            }
            Err(refused(if qjs::JS_IsFunction(self.ctx, v) {
                "the result contains a function, which cannot be sent".to_owned()
            } else if qjs::JS_IsPromise(v) {
                "the result is or contains a promise: a decoder must answer at once, without async".to_owned()
            } else {
                let rt = qjs::JS_GetRuntime(self.ctx);
                let mut len = 0usize;
                let name = qjs::JS_AtomToCStringLen(self.ctx, (&raw mut len).cast(), qjs::JS_GetClassName(rt, class));
                let name = if name.is_null() {
                    "object".into()
                } else {
                    String::from_utf8_lossy(std::slice::from_raw_parts(name.cast::<u8>(), len))
                };
                format!("the result contains an object of class {name}, which cannot be sent")
            }))
        }
    }

    unsafe fn array(&mut self, v: JSValue) -> Result<Written, Unsendable> {
        // SAFETY: `v` is an array.
        unsafe {
            let mut len = 0i64;
            if qjs::JS_GetLength(self.ctx, v, &mut len) < 0 {
                return Err(Unsendable::Exception);
            }
            self.push(b"[")?;
            for at in 0..len {
                if at > 0 {
                    self.push(b",")?;
                }
                let element = qjs::JS_GetPropertyInt64(self.ctx, v, at);
                if self.value(element)? == Written::Nothing {
                    self.push(b"null")?;
                }
            }
            self.push(b"]")
        }
    }

    unsafe fn members(&mut self, v: JSValue) -> Result<Written, Unsendable> {
        // SAFETY: the table is QuickJS's, `count` long, and freed with the arena.
        unsafe {
            let mut table = std::ptr::null_mut();
            let mut count = 0u32;
            let which = qjs::JS_GPN_STRING_MASK | qjs::JS_GPN_ENUM_ONLY;
            if qjs::JS_GetOwnPropertyNames(self.ctx, &mut table, &mut count, v, which as i32) < 0 {
                return Err(Unsendable::Exception);
            }
            self.push(b"{")?;
            let mut is_first = true;
            for at in 0..count as usize {
                let name = (*table.add(at)).atom;
                let member = qjs::JS_GetProperty(self.ctx, v, name);
                if qjs::JS_IsException(member) {
                    return Err(Unsendable::Exception);
                }
                if qjs::JS_IsUndefined(member) {
                    continue;
                }
                if !is_first {
                    self.push(b",")?;
                }
                is_first = false;
                let mut len = 0usize;
                let chars = qjs::JS_AtomToCStringLen(self.ctx, (&raw mut len).cast(), name);
                if chars.is_null() {
                    return Err(Unsendable::Exception);
                }
                self.quoted(std::slice::from_raw_parts(chars.cast::<u8>(), len))?;
                self.push(b":")?;
                self.value(member)?;
            }
            self.push(b"}")
        }
    }

    unsafe fn typed_array(&mut self, v: JSValue) -> Result<Written, Unsendable> {
        // SAFETY: `v` is a typed array.
        unsafe {
            let (mut offset, mut num_bytes, mut element_bytes) = (0usize, 0usize, 1usize);
            let buffer = qjs::JS_GetTypedArrayBuffer(
                self.ctx,
                v,
                (&raw mut offset).cast(),
                (&raw mut num_bytes).cast(),
                (&raw mut element_bytes).cast(),
            );
            if qjs::JS_IsException(buffer) {
                return Err(Unsendable::Exception);
            }
            let len = num_bytes / element_bytes.max(1);
            if len > 0 && self.builtins.big_int_arrays.contains(&qjs::JS_GetTypedArrayType(v)) {
                return Err(refused("the result contains a BigInt, which JSON has no text for"));
            }
            self.push(b"{")?;
            for at in 0..len {
                if at > 0 {
                    self.push(b",")?;
                }
                let _ = write!(self.out, "\"{at}\":");
                let element = qjs::JS_GetPropertyInt64(self.ctx, v, at as i64);
                self.value(element)?;
            }
            self.push(b"}")
        }
    }

    fn quoted(&mut self, text: &[u8]) -> Result<Written, Unsendable> {
        if self.out.len() + text.len() + 2 > self.end {
            return Err(self.too_large());
        }
        quote(text, self.out);
        if self.out.len() > self.end { Err(self.too_large()) } else { Ok(Written::Text) }
    }
}

/// Appends a JSON string. `text` is UTF-8 in which an unpaired surrogate may stand as three bytes.
pub fn quote(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    let mut from = 0;
    let mut at = 0;
    while at < text.len() {
        let byte = text[at];
        let is_surrogate = byte == 0xED && text.get(at + 1).is_some_and(|b| *b >= 0xA0);
        if byte >= 0x20 && byte != b'"' && byte != b'\\' && !is_surrogate {
            at += 1;
            continue;
        }
        out.extend_from_slice(&text[from..at]);
        if is_surrogate {
            let low = |i: usize| u32::from(text.get(at + i).copied().unwrap_or(0x80) & 0x3F);
            let _ = write!(out, "\\u{:04x}", 0xD000 | (low(1) << 6) | low(2));
            at = (at + 3).min(text.len());
        } else {
            match byte {
                b'"' => out.extend_from_slice(b"\\\""),
                b'\\' => out.extend_from_slice(b"\\\\"),
                0x08 => out.extend_from_slice(b"\\b"),
                0x09 => out.extend_from_slice(b"\\t"),
                0x0A => out.extend_from_slice(b"\\n"),
                0x0C => out.extend_from_slice(b"\\f"),
                0x0D => out.extend_from_slice(b"\\r"),
                _ => {
                    let _ = write!(out, "\\u{byte:04x}");
                }
            }
            at += 1;
        }
        from = at;
    }
    out.extend_from_slice(&text[from..]);
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quoted(text: &[u8]) -> String {
        let mut out = Vec::new();
        quote(text, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn texts_are_quoted_as_json_stringify_does() {
        assert_eq!(
            quoted("a\"\\\u{8}\t\n\u{c}\r\u{1}\u{7f}æ\u{2028}".as_bytes()),
            "\"a\\\"\\\\\\b\\t\\n\\f\\r\\u0001\u{7f}æ\u{2028}\""
        );
        assert_eq!(quoted("\u{D7FF}😀".as_bytes()), "\"\u{D7FF}😀\"");
    }

    #[test]
    fn unpaired_surrogates_are_escaped_so_that_the_text_is_utf8() {
        assert_eq!(quoted(&[b'a', 0xED, 0xA0, 0x80, b'b']), r#""a\ud800b""#);
        assert_eq!(quoted(&[0xED, 0xBF, 0xBF]), r#""\udfff""#);
    }
}
