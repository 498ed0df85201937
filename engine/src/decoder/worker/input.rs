//! JSON text to JavaScript objects, no earlier than needed.
//!
//! A network server's event is 2 kB of JSON of which a decoder reads three fields. So only its top level is built: short
//! values at once, longer objects and arrays as accessors that parse their text when they are first read, and then turn
//! themselves into plain data properties. Key order, `in`, `Object.keys`, spread, `JSON.stringify`, assignment and deletion see no
//! difference; only `Object.getOwnPropertyDescriptor` of a member nobody read does. Every text is checked to be JSON as a whole
//! first, so that a late parse cannot fail for the text's sake.
#![allow(unsafe_code, clippy::unnecessary_cast)]

use std::borrow::Cow;
use std::ffi::c_int;

use chrono::DateTime;
use rquickjs::qjs::{self, JSContext, JSValue};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::shared::{LazyMember, Shared};
use super::value;

/// Objects and arrays whose text is shorter are parsed at once.
const LAZY_LEN_MIN: usize = 40;
/// Accessor pairs made beforehand; more are made as needed.
const NUM_READY_ACCESSORS: usize = 12;

/// The members of a JSON object in order, repeated names included, values as text.
#[derive(Debug)]
pub struct Members<'a>(pub Vec<(Cow<'a, str>, &'a str)>);

impl<'a> Members<'a> {
    /// The members of this text; `None` when it is not a JSON object (or has a name that is not Unicode).
    pub fn of(json: &'a str) -> Option<Self> {
        serde_json::from_str(json).ok()
    }

    /// The text of a member; as in JavaScript, the last of a name counts.
    pub fn get(&self, name: &str) -> Option<&'a str> {
        self.0.iter().rev().find(|(n, _)| n == name).map(|(_, text)| *text)
    }
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::with_capacity(24);
                while let Some(Name(name)) = map.next_key()? {
                    members.push((name, map.next_value::<&RawValue>()?.get()));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Names)
    }
}

/// A name that is borrowed when it has no escapes.
struct Name<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a name")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// Whether ISO times among the members become `Date`s, as in the device's record that the reference hands over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dates {
    Keep,
    /// `createdAt` and `updatedAt` here and in `application` and `deviceModel`; `startDate` and `endDate` of the application.
    Convert,
}

const DATE_MEMBERS: [&str; 4] = ["createdAt", "updatedAt", "startDate", "endDate"];
const MEMBERS_WITH_DATES: [&str; 2] = ["application", "deviceModel"];

/// Accessor pairs that live in the base image; they know their member by index only.
#[derive(Clone, Default)]
pub struct Accessors(Vec<(JSValue, JSValue)>);

impl Accessors {
    /// Makes the pairs.
    ///
    /// # Safety
    /// `ctx` is a live context whose image will be the base of all others.
    pub unsafe fn new(ctx: *mut JSContext) -> Self {
        // SAFETY: see above.
        Self((0..NUM_READY_ACCESSORS).map(|at| unsafe { make_pair(ctx, at) }).collect())
    }

    unsafe fn pair(&self, ctx: *mut JSContext, at: usize) -> (JSValue, JSValue) {
        // SAFETY: the ready pairs live in every image; duplicated because the property takes a reference.
        unsafe {
            match self.0.get(at) {
                Some((get, set)) => (qjs::JS_DupValue(ctx, *get), qjs::JS_DupValue(ctx, *set)),
                None => make_pair(ctx, at),
            }
        }
    }
}

unsafe fn make_pair(ctx: *mut JSContext, at: usize) -> (JSValue, JSValue) {
    // SAFETY: the index stands in the function's magic, not in a value.
    unsafe {
        (
            qjs::JS_NewCFunctionData(ctx, Some(read_member), 0, at as c_int, 0, std::ptr::null_mut()),
            qjs::JS_NewCFunctionData(ctx, Some(write_member), 1, at as c_int, 0, std::ptr::null_mut()),
        )
    }
}

/// Builds the value of a JSON text that is known to be valid UTF-8. An exception means that it is not JSON (or that memory
/// ended). `shared.lazy` and `shared.input` must have been cleared when the call began.
///
/// # Safety
/// `ctx` is live and belongs to the engine of `shared` and `accessors`.
pub unsafe fn build(ctx: *mut JSContext, shared: &Shared, accessors: &Accessors, json: &str, dates: Dates) -> JSValue {
    let Some(members) = Members::of(json) else {
        // SAFETY: see above.
        return unsafe { parse(ctx, shared, json.as_bytes()) };
    };
    // SAFETY: see above; nothing of the arena is freed before the next restore.
    unsafe {
        let object = qjs::JS_NewObject(ctx);
        for (name, text) in &members.0 {
            let atom = value::atom(ctx, name.as_bytes());
            let has_dates = dates == Dates::Convert && MEMBERS_WITH_DATES.contains(&name.as_ref());
            if matches!(text.as_bytes(), [b'{' | b'[', ..]) && text.len() >= LAZY_LEN_MIN {
                let mut input = shared.input.borrow_mut();
                let mut lazy = shared.lazy.borrow_mut();
                let at = lazy.len();
                lazy.push(LazyMember {
                    holder: object,
                    name: atom,
                    start: input.len(),
                    len: text.len(),
                    has_dates,
                    value: None,
                });
                input.extend_from_slice(text.as_bytes());
                drop((input, lazy));
                let (getter, setter) = accessors.pair(ctx, at);
                let flags = qjs::JS_PROP_CONFIGURABLE | qjs::JS_PROP_ENUMERABLE;
                qjs::JS_DefinePropertyGetSet(ctx, object, atom, getter, setter, flags as c_int);
                continue;
            }
            let mut member = scalar(ctx, shared, text);
            if has_dates {
                convert_dates(ctx, member);
            } else if dates == Dates::Convert && DATE_MEMBERS[..2].contains(&name.as_ref()) {
                member = date_of_text(ctx, text.trim_matches('"').as_bytes()).unwrap_or(member);
            }
            qjs::JS_DefinePropertyValue(ctx, object, atom, member, qjs::JS_PROP_C_W_E as c_int);
        }
        object
    }
}

/// A short value: text, number and words without the parser.
unsafe fn scalar(ctx: *mut JSContext, shared: &Shared, text: &str) -> JSValue {
    let bytes = text.as_bytes();
    // SAFETY: see `build`.
    unsafe {
        match bytes {
            b"null" => qjs::JS_NULL,
            b"true" => qjs::JS_TRUE,
            b"false" => qjs::JS_FALSE,
            [b'"', inner @ .., b'"'] if !inner.contains(&b'\\') => value::string(ctx, inner),
            [b'-' | b'0'..=b'9', ..] => {
                if let (Ok(int), false) = (text.parse::<i32>(), bytes[0] == b'-') {
                    return qjs::JS_MKVAL(qjs::JS_TAG_INT, int);
                }
                match text.parse::<f64>() {
                    Ok(float) => qjs::JS_NewFloat64(float),
                    Err(_) => parse(ctx, shared, bytes),
                }
            }
            _ => parse(ctx, shared, bytes),
        }
    }
}

/// `JSON.parse`, which no script can patch.
unsafe fn parse(ctx: *mut JSContext, shared: &Shared, json: &[u8]) -> JSValue {
    let mut scratch = shared.scratch.borrow_mut();
    scratch.clear();
    scratch.extend_from_slice(json);
    scratch.push(0);
    // SAFETY: the text ends in a NUL that its length leaves out, and no script runs while it is parsed.
    unsafe { qjs::JS_ParseJSON(ctx, scratch.as_ptr().cast(), json.len() as qjs::size_t, c"payload".as_ptr()) }
}

/// A `Date` of an ISO text.
unsafe fn date_of_text(ctx: *mut JSContext, iso: &[u8]) -> Option<JSValue> {
    let instant = DateTime::parse_from_rfc3339(std::str::from_utf8(iso).ok()?).ok()?;
    // SAFETY: see `build`.
    Some(unsafe { qjs::JS_NewDate(ctx, instant.timestamp_millis() as f64) })
}

/// Turns the ISO texts among an object's date members into `Date`s.
unsafe fn convert_dates(ctx: *mut JSContext, object: JSValue) {
    // SAFETY: the object was just parsed, so that reading it runs no script.
    unsafe {
        if !qjs::JS_IsObject(object) {
            return;
        }
        for name in DATE_MEMBERS {
            let atom = value::atom(ctx, name.as_bytes());
            let member = qjs::JS_GetProperty(ctx, object, atom);
            if !qjs::JS_IsString(member) {
                continue;
            }
            if let Some(date) = value::text(ctx, member).and_then(|iso| date_of_text(ctx, iso)) {
                qjs::JS_DefinePropertyValue(ctx, object, atom, date, qjs::JS_PROP_C_W_E as c_int);
            }
        }
    }
}

/// Replaces the accessor by a plain property, keeping its place and its attributes. Refused (frozen, sealed): the accessor stays.
unsafe fn replace(ctx: *mut JSContext, member: &LazyMember, with: JSValue) {
    let flags = qjs::JS_PROP_HAS_VALUE | qjs::JS_PROP_HAS_WRITABLE | qjs::JS_PROP_WRITABLE;
    // SAFETY: holder and name belong to this call.
    unsafe {
        qjs::JS_DefineProperty(
            ctx,
            member.holder,
            member.name,
            with,
            qjs::JS_UNDEFINED,
            qjs::JS_UNDEFINED,
            flags as c_int,
        );
    }
}

unsafe extern "C" fn read_member(
    ctx: *mut JSContext,
    _this: JSValue,
    _argc: c_int,
    _argv: *mut JSValue,
    magic: c_int,
    _data: *mut JSValue,
) -> JSValue {
    // SAFETY: QuickJS hands over a live context of an engine; the members are those of this call.
    unsafe {
        let shared = Shared::of(ctx);
        let Some(member) = shared.lazy.borrow().get(magic as usize).copied() else { return qjs::JS_UNDEFINED };
        if let Some(value) = member.value {
            return qjs::JS_DupValue(ctx, value);
        }
        let parsed = {
            let input = shared.input.borrow();
            parse(ctx, shared, &input[member.start..member.start + member.len])
        };
        if qjs::JS_IsException(parsed) {
            return parsed;
        }
        if member.has_dates {
            convert_dates(ctx, parsed);
        }
        if let Some(member) = shared.lazy.borrow_mut().get_mut(magic as usize) {
            member.value = Some(qjs::JS_DupValue(ctx, parsed));
        }
        replace(ctx, &member, parsed);
        qjs::JS_DupValue(ctx, parsed)
    }
}

unsafe extern "C" fn write_member(
    ctx: *mut JSContext,
    this: JSValue,
    argc: c_int,
    argv: *mut JSValue,
    magic: c_int,
    _data: *mut JSValue,
) -> JSValue {
    // SAFETY: as above; `argc` arguments stand at `argv`.
    unsafe {
        let shared = Shared::of(ctx);
        let Some(member) = shared.lazy.borrow().get(magic as usize).copied() else { return qjs::JS_UNDEFINED };
        let value = if argc > 0 { *argv } else { qjs::JS_UNDEFINED };
        if qjs::JS_IsObject(this) && !qjs::JS_IsStrictEqual(ctx, this, member.holder) {
            // Written through an object that inherits from the payload: that object gets a property of its own.
            let flags = qjs::JS_PROP_C_W_E as c_int;
            qjs::JS_DefinePropertyValue(ctx, this, member.name, qjs::JS_DupValue(ctx, value), flags);
            return qjs::JS_UNDEFINED;
        }
        if let Some(member) = shared.lazy.borrow_mut().get_mut(magic as usize) {
            member.value = Some(qjs::JS_DupValue(ctx, value));
        }
        replace(ctx, &member, value);
        qjs::JS_UNDEFINED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_keep_order_and_the_last_of_a_name_counts() {
        let members = Members::of(r#" {"b": 1, "a\u0062" : {"x":[1, 2]}, "b":2} "#).unwrap();
        let names: Vec<_> = members.0.iter().map(|(n, _)| n.as_ref()).collect();
        assert_eq!(names, ["b", "ab", "b"]);
        assert_eq!(members.get("b"), Some("2"));
        assert_eq!(members.get("ab"), Some(r#"{"x":[1, 2]}"#));
        assert_eq!(members.get("c"), None);
    }

    #[test]
    fn what_is_no_json_object_has_no_members() {
        for text in ["[1]", "1", "", "{", r#"{"a":}"#, r#"{"a":1} x"#] {
            assert!(Members::of(text).is_none(), "{text}");
        }
    }
}
