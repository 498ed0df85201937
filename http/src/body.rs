//! Reading bodies within a limit: what says that it is too large is refused before anything is read, what turns out to be too
//! large is dropped at the limit, and gzip is unpacked up to the same limit. What is not there within [`READ_WITHIN`] is given up:
//! a body that trickles in holds a connection no longer than that.

use std::io::Read;
use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;

use crate::error::ApiError;

/// A body has to be there by then, counted from when somebody wants it: 2 MiB at 70 kB/s.
pub const READ_WITHIN: Duration = Duration::from_secs(30);

/// How a body is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Identity,
    Gzip,
}

/// Checks what the headers say of the body, without reading it.
///
/// # Errors
/// 413 by `Content-Length`; 415 for an encoding other than gzip; 400 for a length that is no number.
pub fn check_head(headers: &HeaderMap, num_bytes_max: usize) -> Result<(), ApiError> {
    encoding(headers)?;
    check_length(headers, num_bytes_max)
}

/// The part of [`check_head`] that holds for every request, whether anybody would read its body or not.
///
/// # Errors
/// 413 by `Content-Length`; 400 for a length that is no number.
pub fn check_length(headers: &HeaderMap, num_bytes_max: usize) -> Result<(), ApiError> {
    let Some(length) = headers.get(CONTENT_LENGTH) else { return Ok(()) };
    let length: u64 = length
        .to_str()
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .ok_or_else(|| ApiError::malformed("Content-Length is not a number"))?;
    if length > num_bytes_max as u64 { Err(ApiError::too_large()) } else { Ok(()) }
}

/// Reads and unpacks a body.
///
/// # Errors
/// As [`check_head`], and 413 when the limit is met while reading or unpacking, 400 when the body breaks off or is not gzip, 408
/// when it takes longer than [`READ_WITHIN`].
pub async fn read(headers: &HeaderMap, payload: &mut Payload, num_bytes_max: usize) -> Result<Bytes, ApiError> {
    check_head(headers, num_bytes_max)?;
    let packed = tokio::time::timeout(READ_WITHIN, read_raw(payload, num_bytes_max)).await;
    let packed = packed.map_err(|_| ApiError::too_slow())??;
    match encoding(headers)? {
        Encoding::Identity => Ok(packed),
        Encoding::Gzip => unpack(&packed, num_bytes_max),
    }
}

async fn read_raw(payload: &mut Payload, num_bytes_max: usize) -> Result<Bytes, ApiError> {
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.map_err(|_| ApiError::malformed("the body broke off"))?;
        if first.len().max(rest.len()) + chunk.len() > num_bytes_max {
            return Err(ApiError::too_large());
        }
        // Most bodies are one chunk: those are not copied.
        if first.is_empty() && rest.is_empty() {
            first = chunk;
        } else {
            if rest.is_empty() {
                rest.extend_from_slice(&first);
            }
            rest.extend_from_slice(&chunk);
        }
    }
    Ok(if rest.is_empty() { first } else { rest.freeze() })
}

fn unpack(packed: &[u8], num_bytes_max: usize) -> Result<Bytes, ApiError> {
    let mut unpacked = Vec::with_capacity(packed.len().saturating_mul(4).min(num_bytes_max));
    flate2::read::MultiGzDecoder::new(packed)
        .take(num_bytes_max as u64 + 1)
        .read_to_end(&mut unpacked)
        .map_err(|_| ApiError::malformed("the body is not valid gzip"))?;
    if unpacked.len() > num_bytes_max { Err(ApiError::too_large()) } else { Ok(unpacked.into()) }
}

fn encoding(headers: &HeaderMap) -> Result<Encoding, ApiError> {
    let Some(value) = headers.get(CONTENT_ENCODING) else { return Ok(Encoding::Identity) };
    match value.as_bytes().trim_ascii() {
        b"" => Ok(Encoding::Identity),
        text if text.eq_ignore_ascii_case(b"identity") => Ok(Encoding::Identity),
        text if text.eq_ignore_ascii_case(b"gzip") || text.eq_ignore_ascii_case(b"x-gzip") => Ok(Encoding::Gzip),
        _ => Err(ApiError::unsupported("content-encoding must be gzip or absent")),
    }
}

/// What the content type says that a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// `application/json`, `text/json` or `+json`, in UTF-8. Nothing said counts as JSON.
    Json,
    /// JSON in another character set.
    OtherJson,
    Other,
}

/// Whether the content type is JSON that can be read.
pub fn is_json(headers: &HeaderMap) -> bool {
    content(headers) == Content::Json
}

/// What the content type says.
pub fn content(headers: &HeaderMap) -> Content {
    let Some(value) = headers.get(CONTENT_TYPE) else { return Content::Json };
    let Ok(text) = value.to_str() else { return Content::Other };
    let mut parts = text.split(';');
    let essence = parts.next().unwrap_or("").trim().to_ascii_lowercase();
    let is_json = essence.is_empty()
        || essence == "application/json"
        || essence == "text/json"
        || (essence.starts_with("application/") && essence.ends_with("+json"));
    let is_utf8 = parts.filter_map(|p| p.split_once('=')).all(|(name, value)| {
        !name.trim().eq_ignore_ascii_case("charset")
            || ["utf-8", "utf8", "us-ascii"].contains(&value.trim().trim_matches('"').to_ascii_lowercase().as_str())
    });
    match (is_json, is_utf8) {
        (true, true) => Content::Json,
        (true, false) => Content::OtherJson,
        (false, _) => Content::Other,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use actix_web::http::header::HeaderValue;

    use super::*;

    fn with(name: actix_web::http::header::HeaderName, value: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_static(value));
        headers
    }

    #[test]
    fn a_length_over_the_limit_is_refused_by_the_head_alone() {
        let status = |length| check_head(&with(CONTENT_LENGTH, length), 10).map_err(|e| e.status().as_u16());
        assert_eq!(status("10"), Ok(()));
        assert_eq!(status("11"), Err(413));
        assert_eq!(status("99999999999999999999"), Err(400));
    }

    /// A body of these chunks, one each `pause`; it does not end.
    fn trickle(num_chunks: usize, pause: Duration) -> Payload {
        let chunks = futures_util::stream::iter(0..num_chunks).then(move |_| async move {
            tokio::time::sleep(pause).await;
            Ok(Bytes::from_static(b" "))
        });
        Payload::Stream { payload: Box::pin(chunks.chain(futures_util::stream::pending())) }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_trickles_in_is_given_up() {
        let started_at = tokio::time::Instant::now();
        let mut payload = trickle(1_000, Duration::from_secs(1));
        let read = tokio::time::timeout(READ_WITHIN * 10, read(&HeaderMap::new(), &mut payload, 10_000)).await;
        assert_eq!(read.expect("it ends").map_err(|e| e.status().as_u16()), Err(408));
        assert_eq!(started_at.elapsed(), READ_WITHIN);
    }

    #[test]
    fn unpacking_stops_at_the_limit() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        gzip.write_all(&vec![b' '; 50_000_000]).unwrap();
        let bomb = gzip.finish().unwrap();
        assert!(bomb.len() < 100_000);
        assert_eq!(unpack(&bomb, 262_144).map_err(|e| e.status().as_u16()), Err(413));
        assert_eq!(unpack(b"plain", 262_144).map_err(|e| e.status().as_u16()), Err(400));
    }

    #[test]
    fn json_types_are_told_from_others() {
        for (value, expected) in [
            ("application/json", true),
            ("Application/JSON; charset=UTF-8", true),
            ("application/geo+json", true),
            ("application/json; charset=iso-8859-1", false),
            ("text/plain", false),
            ("application/x-www-form-urlencoded", false),
        ] {
            assert_eq!(is_json(&with(CONTENT_TYPE, value)), expected, "{value}");
        }
        assert!(is_json(&HeaderMap::new()));
        assert_eq!(encoding(&with(CONTENT_ENCODING, "br")).map_err(|e| e.status().as_u16()), Err(415));
    }
}
