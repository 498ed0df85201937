//! Headers that tell browsers what not to do with our answers (helmet's, as the reference's newest version sends them), and the
//! limit that is looked at before anything else.

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};

/// An answer of the API is data: it loads nothing, is framed by nobody. A page that needs more sets its own policy.
const CONTENT_SECURITY_POLICY: (&str, &str) = ("content-security-policy", "default-src 'none'; frame-ancestors 'none'");
const HEADERS: [(&str, &str); 7] = [
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("origin-agent-cluster", "?1"),
    ("strict-transport-security", "max-age=63072000; includeSubDomains; preload"),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("x-permitted-cross-domain-policies", "none"),
];

/// Puts the headers on an answer. Content and referrer policy stay where a handler set its own.
pub fn protect(headers: &mut HeaderMap) {
    for (name, value) in HEADERS {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    for (name, value) in [CONTENT_SECURITY_POLICY, ("referrer-policy", "no-referrer-when-downgrade")] {
        let name = HeaderName::from_static(name);
        if !headers.contains_key(&name) {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
}
