//! Bodies as the listener sends them: ended when the server stops, in pieces, and with a note of who
//! waits for whom.
//!
//! A watch or a followed log has no end of its own. Cut off in the middle it would look like a
//! fault to its client; ended between two frames it is what clients expect and begin again from.
//! A long answer goes out in pieces, so that HTTP/2's flow control holds back the most of it.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Response;
use http::header::CONTENT_LENGTH;
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::stalls::Ticket;
use crate::apiserver::Body;
use crate::base::tasks::Stop;

/// The longest piece.
const PIECE_BYTES: usize = 64 << 10;

pub(super) struct Served {
    body: Body,
    /// `None` for bodies of known length, which are always finished.
    stop: Option<Pin<Box<dyn Future<Output = ()> + Send + Sync>>>,
    ticket: Ticket,
    /// Of a frame that was longer than a piece.
    rest: Bytes,
    ended: bool,
}

impl Served {
    pub(super) fn wrap(response: Response<Body>, stop: Stop, ticket: Ticket) -> Response<Served> {
        let (head, body) = response.into_parts();
        let endless =
            body.size_hint().exact().is_none() && !head.headers.contains_key(CONTENT_LENGTH);
        let stop = endless.then(|| {
            let wait: Pin<Box<dyn Future<Output = ()> + Send + Sync>> =
                Box::pin(async move { stop.wait().await });
            wait
        });
        let served = Served { body, stop, ticket, rest: Bytes::new(), ended: false };
        Response::from_parts(head, served)
    }

    fn next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if !self.rest.is_empty() {
            let piece = self.rest.split_to(self.rest.len().min(PIECE_BYTES));
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        // What is ready is sent first: an event that was read from the store is not lost.
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(Ok(self.piece(frame)))),
            Poll::Ready(end) => Poll::Ready(end),
            Poll::Pending => {
                let stop = self.stop.as_mut().map(|stop| stop.as_mut().poll(context));
                if stop == Some(Poll::Ready(())) {
                    self.ended = true;
                    return Poll::Ready(None);
                }
                Poll::Pending
            }
        }
    }

    fn piece(&mut self, frame: Frame<Bytes>) -> Frame<Bytes> {
        match frame.into_data() {
            Ok(mut data) if data.len() > PIECE_BYTES => {
                self.rest = data.split_off(PIECE_BYTES);
                Frame::data(data)
            }
            Ok(data) => Frame::data(data),
            Err(other) => other,
        }
    }
}

impl HttpBody for Served {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let next = self.next(context);
        match next {
            Poll::Ready(Some(_)) => self.ticket.waits_for_client(),
            _ => self.ticket.waits_for_us(),
        }
        next
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && (self.ended || self.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.body.size_hint();
        let rest = self.rest.len() as u64;
        if let Some(exact) = hint.exact() {
            hint.set_exact(exact + rest);
        }
        hint
    }
}
