//! Bodies of unknown length that nobody reads to their end, since the request was refused before. actix-http reads such a body on
//! after the answer, however long it is, in order to keep the connection; only one whose reader is still there when the answer has
//! gone makes it close. So the reader is kept with the answer.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use actix_web::HttpMessage;
use actix_web::body::{BodySize, BoxBody, EitherBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::error::PayloadError;
use actix_web::http::header::TRANSFER_ENCODING;
use actix_web::middleware::Next;
use bytes::Bytes;
use futures_util::{Stream, StreamExt};

/// The reader of a body, shared between who reads and the answer.
#[derive(Clone)]
struct Reader(Rc<RefCell<Option<Payload>>>);

impl Stream for Reader {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut reader = self.0.borrow_mut();
        let Some(payload) = reader.as_mut() else { return Poll::Ready(None) };
        let chunk = ready!(payload.poll_next_unpin(cx));
        if !matches!(chunk, Some(Ok(_))) {
            *reader = None;
        }
        Poll::Ready(chunk)
    }
}

/// An answer with the reader of what it did not need.
struct WithReader {
    body: BoxBody,
    _reader: Reader,
}

impl MessageBody for WithReader {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.body).poll_next(cx)
    }
}

/// The middleware, around everything else.
pub async fn close_after_refusal(
    mut request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    if !request.headers().contains_key(TRANSFER_ENCODING) {
        return Ok(next.call(request).await?.map_into_left_body());
    }
    let reader = Reader(Rc::new(RefCell::new(Some(request.take_payload()))));
    request.set_payload(Payload::Stream { payload: Box::pin(reader.clone()) });
    let response = next.call(request).await?;
    Ok(response.map_body(|_, body| EitherBody::right(WithReader { body: body.boxed(), _reader: reader })))
}
