//! The radio frame inside a payload, for the dialects that want bytes: base64 `data` and `fPort` of a network server's event, or
//! of whatever an HTTP device posted in the same form. Pure.
//!
//! `data: ""` is an empty frame; no `data` is an error, and so is an event that is still encrypted. No `fPort` is 0, which is what
//! ChirpStack hands its codecs then (an uplink without a port carries no application data).

use base64::Engine as _;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};

use super::input::Members;

/// Standard base64, with or without its padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// What a byte dialect is called with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub bytes: Vec<u8>,
    pub f_port: u32,
}

/// The frame of a payload, or why there is none.
pub fn frame_of(payload: &str) -> Result<Frame, String> {
    let members = Members::of(payload).ok_or(
        "the payload is not a JSON object: this decoder's dialect reads bytes from its `data` (base64) and `fPort`",
    )?;
    let is_present = |name: &str| members.get(name).is_some_and(|text| text != "null");
    if is_present("joinServerContext") {
        return Err(
            "the payload is still encrypted (joinServerContext): the network server does not have the key".into()
        );
    }
    let data = members
        .get("data")
        .filter(|text| *text != "null")
        .ok_or("the payload has no `data`: this decoder's dialect reads base64 bytes from there")?;
    let data: String = serde_json::from_str(data).map_err(|_| "the payload's `data` is not a text")?;
    let bytes = BASE64.decode(data.trim()).map_err(|e| format!("the payload's `data` is not base64: {e}"))?;
    let f_port = match members.get("fPort") {
        None | Some("null") => 0,
        Some(text) => text.trim_matches('"').parse().map_err(|_| {
            format!("the payload's `fPort` is not a port number: {}", text.chars().take(20).collect::<String>())
        })?,
    };
    Ok(Frame { bytes, f_port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_and_port_are_read_wherever_they_stand() {
        let frame = frame_of(r#"{"fPort":2,"x":{"data":"no"},"data":"AQIDBA=="}"#).unwrap();
        assert_eq!(frame, Frame { bytes: vec![1, 2, 3, 4], f_port: 2 });
        assert_eq!(frame_of(r#"{"data":"AQIDBA","fPort":"85"}"#).unwrap().bytes, [1, 2, 3, 4]);
        assert_eq!(frame_of(r#"{"data":"AQI\u003d"}"#).unwrap().bytes, [1, 2]);
    }

    #[test]
    fn empty_data_is_an_empty_frame_and_no_port_is_zero() {
        assert_eq!(frame_of(r#"{"data":""}"#).unwrap(), Frame { bytes: vec![], f_port: 0 });
        assert_eq!(frame_of(r#"{"data":"","fPort":null}"#).unwrap().f_port, 0);
    }

    #[test]
    fn what_is_missing_or_unreadable_is_said() {
        for (payload, said) in [
            (r#"{"fPort":1}"#, "no `data`"),
            (r#"{"data":null}"#, "no `data`"),
            (r#"{"data":5}"#, "not a text"),
            (r#"{"data":"%%"}"#, "not base64"),
            (r#"{"data":"","fPort":"x"}"#, "not a port"),
            (r#"{"data":"","joinServerContext":{"sessionKeyId":"a"}}"#, "still encrypted"),
            ("[1]", "not a JSON object"),
            ("", "not a JSON object"),
        ] {
            let error = frame_of(payload).unwrap_err();
            assert!(error.contains(said), "{payload}: {error}");
        }
    }
}
