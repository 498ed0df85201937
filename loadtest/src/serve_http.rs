//! The HTTP side of a receiver: HTTP/1.1 with `Content-Length`, one request after another on a kept-alive connection. As small as that,
//! because on one machine with the engine every microsecond of a receiver is one that the engine does not get.
//!
//! Limits: heads of 16 kB; a body without a length, or longer than asked for, ends the connection.

use std::io;
use std::mem::MaybeUninit;

use bytes::{Buf as _, Bytes, BytesMut};
use httparse::{ParserConfig, Request, Status};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const HEAD_BYTES_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;
const READ_BYTES: usize = 8 * 1024;

/// What a receiver looks at in a request's head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// `Idempotency-Key` is there, and `Content-Type` and `Authorization` are as they should be.
    pub is_right: bool,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub retry_after_s: Option<u32>,
    pub body: Bytes,
}

impl Answer {
    /// An answer without a body.
    pub const fn empty(status: u16) -> Self {
        Self { status, retry_after_s: None, body: Bytes::new() }
    }

    fn write(&self, out: &mut BytesMut) {
        out.extend_from_slice(format!("HTTP/1.1 {} Scripted\r\n", self.status).as_bytes());
        if let Some(seconds) = self.retry_after_s {
            out.extend_from_slice(format!("retry-after: {seconds}\r\n").as_bytes());
        }
        if self.status != 204 {
            out.extend_from_slice(format!("content-length: {}\r\n", self.body.len()).as_bytes());
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(&self.body);
    }
}

/// Who answers.
pub trait Answering: Sync {
    /// The answer to one request; an error cuts the connection off.
    fn answer(&self, seen: Seen, body: &[u8]) -> impl Future<Output = io::Result<Answer>> + Send;
}

/// Serves one connection until the other side ends it, or there is no answer.
///
/// # Errors
/// The connection broke, or what came is not HTTP.
pub async fn serve(
    mut stream: TcpStream,
    authorization: &str,
    body_bytes_max: usize,
    answering: &impl Answering,
) -> io::Result<()> {
    let (mut inbound, mut outbound) = (BytesMut::with_capacity(READ_BYTES), BytesMut::with_capacity(256));
    loop {
        let Some(head) = Head::read(&inbound, authorization)? else {
            if !read(&mut stream, &mut inbound).await? {
                return Ok(());
            }
            continue;
        };
        if head.num_body_bytes > body_bytes_max {
            Answer::empty(413).write(&mut outbound);
            return stream.write_all(&outbound).await;
        }
        while inbound.len() < head.num_bytes + head.num_body_bytes {
            if !read(&mut stream, &mut inbound).await? {
                return Ok(());
            }
        }
        let body = &inbound[head.num_bytes..head.num_bytes + head.num_body_bytes];
        answering.answer(head.seen, body).await?.write(&mut outbound);
        inbound.advance(head.num_bytes + head.num_body_bytes);
        stream.write_all(&outbound).await?;
        outbound.clear();
    }
}

async fn read(stream: &mut TcpStream, inbound: &mut BytesMut) -> io::Result<bool> {
    inbound.reserve(READ_BYTES);
    Ok(stream.read_buf(inbound).await? > 0)
}

#[derive(Debug)]
struct Head {
    num_bytes: usize,
    num_body_bytes: usize,
    seen: Seen,
}

impl Head {
    fn read(inbound: &[u8], authorization: &str) -> io::Result<Option<Self>> {
        let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let mut fields = [const { MaybeUninit::uninit() }; HEADERS_MAX];
        let mut request = Request::new(&mut []);
        let parsed = ParserConfig::default().parse_request_with_uninit_headers(&mut request, inbound, &mut fields);
        let num_bytes = match parsed {
            Ok(Status::Complete(num_bytes)) => num_bytes,
            Ok(Status::Partial) if inbound.len() > HEAD_BYTES_MAX => return Err(bad("a head without end")),
            Ok(Status::Partial) => return Ok(None),
            Err(error) => return Err(bad(&error.to_string())),
        };
        let (mut has_key, mut has_type, mut is_authorized, mut num_body_bytes) = (false, false, false, None);
        for field in request.headers.iter() {
            let is = |name: &str| field.name.eq_ignore_ascii_case(name);
            if is("content-length") {
                num_body_bytes = std::str::from_utf8(field.value).ok().and_then(|text| text.parse().ok());
            } else if is("idempotency-key") {
                has_key = true;
            } else if is("content-type") {
                has_type = field.value == b"application/json";
            } else if is("authorization") {
                is_authorized = field.value == authorization.as_bytes();
            }
        }
        let num_body_bytes = num_body_bytes.ok_or_else(|| bad("a body without a length"))?;
        Ok(Some(Self { num_bytes, num_body_bytes, seen: Seen { is_right: has_key && has_type && is_authorized } }))
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[derive(Default)]
    struct Pedant(std::sync::Mutex<Vec<(bool, Vec<u8>)>>);

    impl Answering for Pedant {
        async fn answer(&self, seen: Seen, body: &[u8]) -> io::Result<Answer> {
            self.0.lock().unwrap().push((seen.is_right, body.to_vec()));
            Ok(if seen.is_right {
                Answer::empty(204)
            } else {
                Answer { status: 503, retry_after_s: Some(2), body: Bytes::from_static(b"no") }
            })
        }
    }

    #[tokio::test]
    async fn requests_in_pieces_are_answered_in_turn_and_headers_are_looked_at() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let serving = tokio::spawn(async move {
            let pedant = Pedant::default();
            let served = serve(stream, "Bearer x", 100, &pedant).await;
            (served.is_ok(), pedant.0.into_inner().unwrap())
        });
        let right = "POST /in HTTP/1.1\r\nHost: h\r\nIdempotency-Key: k\r\nContent-Type: application/json\r\n\
                     Authorization: Bearer x\r\nContent-Length: 2\r\n\r\n{}";
        let wrong = "POST /in HTTP/1.1\r\nContent-Length: 1\r\n\r\n1";
        for piece in format!("{right}{wrong}").as_bytes().chunks(7) {
            client.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        let too_long = "POST /in HTTP/1.1\r\nContent-Length: 101\r\n\r\n";
        client.write_all(too_long.as_bytes()).await.unwrap();
        let mut answers = String::new();
        client.read_to_string(&mut answers).await.unwrap();
        let expected = "HTTP/1.1 204 Scripted\r\n\r\n\
                        HTTP/1.1 503 Scripted\r\nretry-after: 2\r\ncontent-length: 2\r\n\r\nno\
                        HTTP/1.1 413 Scripted\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(answers, expected);
        let (is_clean, seen) = serving.await.unwrap();
        assert!(is_clean);
        assert_eq!(seen, [(true, b"{}".to_vec()), (false, b"1".to_vec())]);
    }
}
