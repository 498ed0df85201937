//! The answer to one POST over HTTP/1.1 (RFC 9112), read piece by piece: head, framing of the body, whether the connection may be
//! used again. Pure: bytes in, no sockets.
//!
//! Limits: a head of at most [`HEAD_BYTES_MAX`] with [`HEADERS_MAX`] fields; anything odd is [`Malformed`] and costs the connection.
//! When in doubt a connection is not used again.

use std::mem::MaybeUninit;

use bytes::{Buf, BytesMut};
use httparse::{ParserConfig, Response, Status};

/// Longest head of an answer.
const HEAD_BYTES_MAX: usize = 64 * 1024;
const HEADERS_MAX: usize = 100;
/// Longest line in front of a chunk, and longest trailer.
const LINE_BYTES_MAX: usize = 4 * 1024;

/// What came is no answer in HTTP/1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer is no HTTP/1: {0}")]
pub(super) struct Malformed(&'static str);

/// Status and framing of an answer.
#[derive(Debug)]
pub(super) struct Head {
    pub status: u16,
    pub retry_after: Option<String>,
    pub body: Body,
    /// Whether the connection may be used again once the body was read.
    pub may_reuse: bool,
}

/// What is left of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    Done,
    Length(u64),
    Chunked(Chunk),
    UntilClose,
}

/// Where in a chunked body we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chunk {
    /// In front of a chunk's length.
    Size,
    /// So much of a chunk is left.
    Data(u64),
    /// In front of the line end behind a chunk.
    End,
    /// Behind the last chunk.
    Trailers,
}

impl Head {
    /// Takes the head from the front of `buffer`; `None` until it is there whole. Interim answers (1xx) are passed by.
    ///
    /// # Errors
    /// What is there is no head of an answer.
    pub(super) fn take(buffer: &mut BytesMut) -> Result<Option<Self>, Malformed> {
        loop {
            let mut fields = [const { MaybeUninit::uninit() }; HEADERS_MAX];
            let mut response = Response::new(&mut []);
            let parsed = ParserConfig::default().parse_response_with_uninit_headers(&mut response, buffer, &mut fields);
            let num_bytes = match parsed {
                Ok(Status::Complete(num_bytes)) => num_bytes,
                Ok(Status::Partial) if buffer.len() > HEAD_BYTES_MAX => return Err(Malformed("its head is too long")),
                Ok(Status::Partial) => return Ok(None),
                Err(_) => return Err(Malformed("its head cannot be read")),
            };
            let status = response.code.unwrap_or_default();
            if status == 101 {
                return Err(Malformed("it switches to a protocol that nobody asked for"));
            }
            let head = Self::of(&response, status)?;
            buffer.advance(num_bytes);
            if status >= 200 {
                return Ok(Some(head));
            }
        }
    }

    fn of(response: &Response<'_, '_>, status: u16) -> Result<Self, Malformed> {
        let mut may_reuse = response.version == Some(1);
        let (mut length, mut coding, mut retry_after) = (None, None, None);
        for field in response.headers.iter() {
            let text = || std::str::from_utf8(field.value).map(str::trim).unwrap_or_default();
            if field.name.eq_ignore_ascii_case("content-length") {
                let stated = text();
                // `+5` parses as a number and is none here.
                let is_number = !stated.is_empty() && stated.bytes().all(|b| b.is_ascii_digit());
                let value =
                    stated.parse::<u64>().ok().filter(|_| is_number).ok_or(Malformed("its length is no number"))?;
                if length.is_some_and(|before| before != value) {
                    return Err(Malformed("it states two lengths"));
                }
                length = Some(value);
            } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
                let last = text().rsplit(',').next().unwrap_or_default().trim();
                coding = Some(last.eq_ignore_ascii_case("chunked"));
            } else if field.name.eq_ignore_ascii_case("connection") {
                may_reuse &= !text().split(',').any(|token| token.trim().eq_ignore_ascii_case("close"));
            } else if field.name.eq_ignore_ascii_case("retry-after") {
                retry_after = Some(text().to_owned());
            }
        }
        // Whoever states both may mean either: the connection ends with this answer.
        may_reuse &= coding.is_none() || length.is_none();
        let body = match (status, coding, length) {
            (100..=199 | 204 | 304, _, _) | (_, None, Some(0)) => Body::Done,
            (_, Some(true), _) => Body::Chunked(Chunk::Size),
            (_, Some(false), _) | (_, None, None) => Body::UntilClose,
            (_, None, Some(length)) => Body::Length(length),
        };
        Ok(Self { status, retry_after, body, may_reuse })
    }
}

impl Body {
    /// Takes what belongs to the body from the front of `buffer` and hands its content on.
    ///
    /// # Errors
    /// A chunked body that is none.
    pub(super) fn take(&mut self, buffer: &mut BytesMut, mut content: impl FnMut(&[u8])) -> Result<(), Malformed> {
        loop {
            match self {
                Self::Done => return Ok(()),
                Self::UntilClose => {
                    content(buffer);
                    buffer.clear();
                    return Ok(());
                }
                Self::Length(left) => {
                    *left -= take_content(buffer, *left, &mut content);
                    if *left > 0 {
                        return Ok(());
                    }
                    *self = Self::Done;
                }
                Self::Chunked(chunk) => match chunk.take(buffer, &mut content)? {
                    Some(Chunk::Trailers) if *chunk == Chunk::Trailers => *self = Self::Done,
                    Some(next) => *chunk = next,
                    None => return Ok(()),
                },
            }
        }
    }
}

impl Chunk {
    /// One step; `None` when more has to come first. Behind the trailers it gives `Trailers` again.
    fn take(&mut self, buffer: &mut BytesMut, content: &mut impl FnMut(&[u8])) -> Result<Option<Self>, Malformed> {
        match self {
            Self::Size => match httparse::parse_chunk_size(buffer) {
                Ok(Status::Complete((num_bytes, size))) => {
                    buffer.advance(num_bytes);
                    Ok(Some(if size == 0 { Self::Trailers } else { Self::Data(size) }))
                }
                Ok(Status::Partial) if buffer.len() > LINE_BYTES_MAX => Err(Malformed("a chunk's length is too long")),
                Ok(Status::Partial) => Ok(None),
                Err(_) => Err(Malformed("a chunk's length is no number")),
            },
            Self::Data(left) => {
                *left -= take_content(buffer, *left, content);
                Ok((*left == 0).then_some(Self::End))
            }
            Self::End => match buffer.get(..2) {
                None => Ok(None),
                Some(b"\r\n") => {
                    buffer.advance(2);
                    Ok(Some(Self::Size))
                }
                Some(_) => Err(Malformed("a chunk is longer than its length")),
            },
            Self::Trailers => match buffer.iter().position(|b| *b == b'\n') {
                Some(at) => {
                    let is_empty = matches!(&buffer[..at], b"" | b"\r");
                    buffer.advance(at + 1);
                    if is_empty { Ok(Some(Self::Trailers)) } else { self.take(buffer, content) }
                }
                None if buffer.len() > LINE_BYTES_MAX => Err(Malformed("a trailer is too long")),
                None => Ok(None),
            },
        }
    }
}

fn take_content(buffer: &mut BytesMut, left: u64, content: &mut impl FnMut(&[u8])) -> u64 {
    let num_bytes = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
    content(&buffer[..num_bytes]);
    buffer.advance(num_bytes);
    num_bytes as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Feeds an answer in pieces; gives its head, its content, whether it ended, and what is left behind it.
    fn read(answer: &[u8], piece: usize) -> Result<Option<(Head, Vec<u8>, usize)>, Malformed> {
        let (mut buffer, mut head, mut content) = (BytesMut::new(), None::<Head>, Vec::new());
        for bytes in answer.chunks(piece.max(1)) {
            buffer.extend_from_slice(bytes);
            if head.is_none() {
                head = Head::take(&mut buffer)?;
            }
            if let Some(head) = &mut head {
                head.body.take(&mut buffer, |bytes| content.extend_from_slice(bytes))?;
            }
        }
        Ok(head.map(|head| (head, content, buffer.len())))
    }

    fn whole(answer: &str) -> (Head, String, usize) {
        let (head, content, left) = read(answer.as_bytes(), usize::MAX).unwrap().unwrap();
        (head, String::from_utf8(content).unwrap(), left)
    }

    #[test]
    fn every_framing_is_read_to_its_end_and_no_further() {
        let (head, content, left) = whole("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP");
        assert_eq!((head.status, head.body, head.may_reuse), (200, Body::Done, true));
        assert_eq!((content.as_str(), left), ("hello", 4));
        let chunked =
            "HTTP/1.1 500 x\r\ntransfer-encoding: gzip, Chunked\r\n\r\n5;x=y\r\nhello\r\n1\r\n!\r\n0\r\nA: b\r\n\r\n";
        let (head, content, left) = whole(chunked);
        assert_eq!((head.status, head.body, content.as_str(), left), (500, Body::Done, "hello!", 0));
        let (head, content, _) = whole("HTTP/1.1 400 Bad\r\n\r\nuntil the end");
        assert_eq!((head.body, content.as_str()), (Body::UntilClose, "until the end"));
        let (head, _, left) = whole("HTTP/1.1 204 No Content\r\nContent-Length: 9\r\n\r\n");
        assert_eq!((head.body, left), (Body::Done, 0));
        let (head, _, _) =
            whole("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 429 Slow\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n");
        assert_eq!((head.status, head.retry_after.as_deref(), head.body), (429, Some("7"), Body::Done));
    }

    #[test]
    fn a_connection_is_used_again_only_when_nothing_speaks_against_it() {
        for head in [
            "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nConnection: foo, Close\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
        ] {
            assert!(!whole(head).0.may_reuse, "{head}");
        }
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        for answer in [
            "SSH-2.0-OpenSSH_9.2p1\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
        ] {
            assert!(read(answer.as_bytes(), usize::MAX).is_err(), "{answer}");
        }
        let endless = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(HEAD_BYTES_MAX));
        assert!(read(endless.as_bytes(), 1 << 20).is_err());
    }

    proptest! {
        /// However the network cuts an answer into pieces, it reads the same.
        #[test]
        fn pieces_do_not_matter(chunks in prop::collection::vec("[a-z\r\n]{1,20}", 0..6), piece in 1usize..40) {
            let mut answer = "HTTP/1.1 503 x\r\nRetry-After: 9\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned();
            for chunk in &chunks {
                answer += &format!("{:x}\r\n{chunk}\r\n", chunk.len());
            }
            answer += "0\r\n\r\n";
            let (head, content, left) = read(answer.as_bytes(), piece).unwrap().unwrap();
            prop_assert_eq!((head.status, head.body, left), (503, Body::Done, 0));
            prop_assert_eq!(content, chunks.concat().into_bytes());
        }

        /// I7: whatever a receiver answers, the outcome is a value.
        #[test]
        fn nothing_that_is_answered_panics(bytes in any::<Vec<u8>>(), piece in 1usize..40) {
            let _ = read(&bytes, piece);
            let framed = [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", bytes.as_slice()].concat();
            let _ = read(&framed, piece);
        }
    }
}
