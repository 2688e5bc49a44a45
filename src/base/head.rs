//! Answers to HEAD: the head of what GET would answer, and nothing after it (RFC 9110, 9.3.2). hyper
//! leaves the body out in HTTP/1 alone; in HTTP/2 clients take it for a broken stream.

use std::pin::Pin;
use std::task::{Context, Poll};

use http::header::CONTENT_LENGTH;
use http::{Method, Response};
use http_body::{Body, Frame, SizeHint};

/// A body, or its absence.
pub struct Answered<B> {
    body: B,
    is_sent: bool,
}

/// The answer as the method wants it.
pub fn answered<B: Body>(method: &Method, mut response: Response<B>) -> Response<Answered<B>> {
    let is_sent = *method != Method::HEAD;
    // One without a body says nothing of what GET would answer.
    let length = response.body().size_hint().exact().filter(|length| *length > 0);
    if !is_sent && let Some(length) = length {
        response.headers_mut().entry(CONTENT_LENGTH).or_insert_with(|| length.into());
    }
    response.map(|body| Answered { body, is_sent })
}

impl<B: Body + Unpin> Body for Answered<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        if self.is_sent { Pin::new(&mut self.body).poll_frame(context) } else { Poll::Ready(None) }
    }

    fn is_end_stream(&self) -> bool {
        !self.is_sent || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.is_sent { self.body.size_hint() } else { SizeHint::with_exact(0) }
    }
}
