//! Which dialect a script speaks, from what its top level left behind: the functions that exist and their parameters. Pure.
//!
//! The order is the one of `decoders.md`: a `decode(payload, metadata)` is OS2iot's, whatever else there is (most published OS2iot
//! decoders carry a `Decoder` or `decodeUplink` of the vendor along); then `decodeUplink`, `driver.decodeUplink`, `Decode`, `Decoder`;
//! then any other `decode`. Comments and texts cannot mislead it, since nothing is searched in the source: the functions are looked
//! up after the script was run. Only when that finds nothing is a `module` with `exports` offered, and an entry looked for there.

use sluse_schema::device::Dialect;

/// Functions that a script may have left, in the order of [`Found`]'s fields and of the probe's answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Source text of a top-level `decode`, for its parameters.
    pub decode: Option<String>,
    pub has_decode_uplink: bool,
    pub has_driver: bool,
    /// Upper-case `Decode`.
    pub has_chirpstack3: bool,
    /// `Decoder`.
    pub has_ttn2: bool,
    /// `decodeUplink` in `exports` or in a `driver` there.
    pub has_exports: bool,
}

/// What the script speaks; `None` when there is no entry function.
pub fn recognise(found: &Found) -> Option<Dialect> {
    if let Some(source) = &found.decode
        && parameters(source).is_some_and(|p| p == ["payload", "metadata"])
    {
        return Some(Dialect::Os2iot);
    }
    [
        (found.has_decode_uplink, Dialect::Ts013),
        (found.has_driver || found.has_exports, Dialect::Actility),
        (found.has_chirpstack3, Dialect::Chirpstack3),
        (found.has_ttn2, Dialect::Ttn2),
        (found.decode.is_some(), Dialect::Os2iot),
    ]
    .into_iter()
    .find_map(|(is_there, dialect)| is_there.then_some(dialect))
}

/// What the entry function of a dialect is called, for messages.
pub const fn entry_name(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Os2iot => "decode(payload, metadata)",
        Dialect::Ts013 => "decodeUplink(input)",
        Dialect::Actility => "driver.decodeUplink(input), or decodeUplink in exports",
        Dialect::Chirpstack3 => "Decode(fPort, bytes, variables)",
        Dialect::Ttn2 => "Decoder(bytes, port)",
    }
}

/// Names of a function's parameters, from its source text as the engine gives it; `None` when one is not a plain name
/// (destructured, with a default, rest).
pub fn parameters(source: &str) -> Option<Vec<String>> {
    let text = without_comments(source);
    let text = text.trim_start();
    let list = match text.find('(') {
        // `payload => …`
        _ if text.find("=>").is_some_and(|arrow| !text[..arrow].contains('(')) => &text[..text.find("=>")?],
        Some(open) => {
            let rest = &text[open + 1..];
            &rest[..rest.find(')')?]
        }
        None => return None,
    };
    let names: Vec<String> = list.split(',').map(|n| n.trim().to_owned()).collect();
    if names.iter().all(String::is_empty) {
        return Some(Vec::new());
    }
    let is_name = |n: &String| !n.is_empty() && n.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '$');
    names.iter().all(is_name).then_some(names)
}

/// The text without `/* */` and `//` comments. Only for the head of a function, where no text or regular expression stands
/// before the parameters.
fn without_comments(source: &str) -> String {
    let mut out = String::with_capacity(source.len().min(256));
    let mut rest = source;
    while out.len() < 256 {
        let Some(at) = rest.find('/') else {
            out.push_str(rest);
            break;
        };
        out.push_str(&rest[..at]);
        let comment = &rest[at..];
        let end = if comment.starts_with("/*") {
            comment.find("*/").map(|e| e + 2)
        } else if comment.starts_with("//") {
            comment.find('\n')
        } else {
            out.push('/');
            Some(1)
        };
        match end {
            Some(end) => rest = &comment[end..],
            None => break,
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read_from_every_way_to_write_a_function() {
        for source in [
            "function decode(payload, metadata) { return (1) }",
            "function decode ( payload /* raw, all */ , // the event\n metadata ) {}",
            "(payload, metadata) => ({a: 1})",
            "async function (payload,metadata) {}",
            "function* decode(payload, metadata) {}",
        ] {
            assert_eq!(parameters(source).unwrap(), ["payload", "metadata"], "{source}");
        }
        assert_eq!(parameters("payload => payload.data").unwrap(), ["payload"]);
        assert_eq!(parameters("function decode() {}").unwrap(), Vec::<String>::new());
        for source in ["function ({ bytes }) {}", "function (a = 1, b) {}", "function (...all) {}", "function"] {
            assert_eq!(parameters(source), None, "{source}");
        }
    }

    #[test]
    fn an_os2iot_decode_wins_over_the_vendor_functions_it_carries_along() {
        let mut found = Found {
            decode: Some("function decode(payload, metadata) {}".into()),
            has_decode_uplink: true,
            has_ttn2: true,
            ..Found::default()
        };
        assert_eq!(recognise(&found), Some(Dialect::Os2iot));
        found.decode = Some("function decode(parameters, bytes, port, flat) {}".into());
        assert_eq!(recognise(&found), Some(Dialect::Ts013));
    }

    #[test]
    fn without_decode_uplink_the_other_dialects_follow_in_order() {
        let any_decode = Some("function decode(bytes) {}".to_owned());
        let mut found =
            Found { decode: any_decode, has_driver: true, has_chirpstack3: true, has_ttn2: true, ..Found::default() };
        assert_eq!(recognise(&found), Some(Dialect::Actility));
        found.has_driver = false;
        assert_eq!(recognise(&found), Some(Dialect::Chirpstack3));
        found.has_chirpstack3 = false;
        assert_eq!(recognise(&found), Some(Dialect::Ttn2));
        found.has_ttn2 = false;
        assert_eq!(recognise(&found), Some(Dialect::Os2iot));
        found.decode = None;
        assert_eq!(recognise(&found), None);
        found.has_exports = true;
        assert_eq!(recognise(&found), Some(Dialect::Actility));
    }
}
