//! What a script threw, as a text for its owner: name, message and line, at most 1 kB. Anything can be thrown: an `Error`, a text, an
//! object, `null`; reading it may throw again.
#![allow(unsafe_code)]

use rquickjs::qjs::{self, JSContext};

use super::engine::SCRIPT_NAME;
use super::value;

/// The most a message may have, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 1_024;

/// See the module's header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Thrown {
    /// `TypeError` and the like; empty for what is no `Error`.
    pub name: String,
    pub message: String,
    pub line: Option<u32>,
}

/// Takes the exception that waits in the context.
///
/// # Safety
/// `ctx` is live.
pub unsafe fn take(ctx: *mut JSContext) -> Thrown {
    // SAFETY: reading properties may run getters of the script, within its budget; what they throw is dropped.
    unsafe {
        let exception = qjs::JS_GetException(ctx);
        qjs::JS_ResetUncatchableError(ctx);
        let text_of = |v: qjs::JSValue| match value::text(ctx, v) {
            Some(text) => lossy(text),
            None => {
                qjs::JS_GetException(ctx);
                String::new()
            }
        };
        if !qjs::JS_IsObject(exception) {
            let is_symbol = qjs::JS_IsSymbol(exception);
            let text = if is_symbol { "a symbol".to_owned() } else { text_of(exception) };
            return Thrown { message: text, ..Thrown::default() };
        }
        let member = |name| {
            let v = value::get(ctx, exception, name);
            if qjs::JS_IsException(v) {
                qjs::JS_GetException(ctx);
                return None;
            }
            (!qjs::JS_IsUndefined(v) && !qjs::JS_IsSymbol(v)).then(|| text_of(v))
        };
        if qjs::JS_IsError(exception) {
            return Thrown {
                name: member(c"name").unwrap_or_else(|| "Error".to_owned()),
                message: member(c"message").unwrap_or_default(),
                line: member(c"stack").and_then(|s| line_of(&s)),
            };
        }
        let message = member(c"message").unwrap_or_else(|| text_of(exception));
        Thrown { name: member(c"name").unwrap_or_default(), message, line: None }
    }
}

impl Thrown {
    /// One line of text, cut to [`MESSAGE_BYTES_MAX`].
    pub fn text(&self) -> String {
        let mut text = match (self.name.as_str(), self.message.as_str()) {
            ("", "") => "the script threw an empty value".to_owned(),
            ("", message) => format!("the script threw {message}"),
            (name, "") => name.to_owned(),
            (name, message) => format!("{name}: {message}"),
        };
        cut(&mut text, MESSAGE_BYTES_MAX - 20);
        if let Some(line) = self.line {
            text.push_str(&format!(" (line {line})"));
        }
        text
    }

    /// Whether it complains that there is no `module` or `exports`.
    pub fn is_about_module(&self) -> bool {
        self.name == "ReferenceError"
            && (self.message.starts_with("module ")
                || self.message.starts_with("exports ")
                || self.message.contains("'module'")
                || self.message.contains("'exports'"))
    }

    /// Whether this is what QuickJS throws when it has no memory.
    pub fn may_mean_no_memory(&self) -> bool {
        matches!((self.name.as_str(), self.message.as_str()), ("InternalError", "out of memory") | ("", "null"))
    }

    /// Whether this is what QuickJS throws when the stack is used up, or a text grows beyond any limit.
    pub fn is_about_size(&self) -> bool {
        matches!(
            (self.name.as_str(), self.message.as_str()),
            ("RangeError", "Maximum call stack size exceeded") | ("InternalError", "string too long")
        )
    }
}

/// UTF-8 out of what may have unpaired surrogates.
fn lossy(text: &[u8]) -> String {
    String::from_utf8_lossy(&text[..text.len().min(4 * MESSAGE_BYTES_MAX)]).into_owned()
}

/// Cuts at a character boundary.
pub fn cut(text: &mut String, bytes_max: usize) {
    if text.len() > bytes_max {
        let mut at = bytes_max;
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        text.truncate(at);
        text.push('…');
    }
}

/// The first line of our script that a stack trace names.
fn line_of(stack: &str) -> Option<u32> {
    let name = SCRIPT_NAME.to_str().ok()?;
    let after = stack.split(name).nth(1)?.strip_prefix(':')?;
    after[..after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len())].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_the_first_one_in_the_script() {
        assert_eq!(
            line_of("    at slice (native)\n    at f (decoder.js:12:5)\n    at decode (decoder.js:3:1)\n"),
            Some(12)
        );
        assert_eq!(line_of("    at decoder.js:7"), Some(7));
        assert_eq!(line_of("    at (prelude):1"), None);
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let thrown = Thrown { name: "Error".into(), message: "æ".repeat(2_000), line: Some(3) };
        let text = thrown.text();
        assert!(text.len() <= MESSAGE_BYTES_MAX, "{}", text.len());
        assert!(text.starts_with("Error: æ") && text.ends_with("… (line 3)"));
    }

    #[test]
    fn what_is_no_error_still_gets_a_text() {
        let said = |message: &str| Thrown { message: message.into(), ..Thrown::default() }.text();
        assert_eq!(said("null"), "the script threw null");
        assert_eq!(said(""), "the script threw an empty value");
    }
}
