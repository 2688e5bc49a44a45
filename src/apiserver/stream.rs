//! A response's body from a stream of frames.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::Stream;
use futures::stream::BoxStream;
use http_body::Frame;
use http_body_util::BodyExt;
use parking_lot::Mutex;

use super::Body;

type Frames = BoxStream<'static, Result<Frame<Bytes>, io::Error>>;

/// Streams are `Send` but not `Sync`, which [`Body`] is. The lock is never taken: the body is
/// polled by its only owner.
pub struct StreamBody(Mutex<Frames>);

impl StreamBody {
    pub fn body(
        frames: impl Stream<Item = Result<Frame<Bytes>, io::Error>> + Send + 'static,
    ) -> Body {
        StreamBody(Mutex::new(Box::pin(frames))).boxed()
    }
}

impl http_body::Body for StreamBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.0.get_mut().as_mut().poll_next(context)
    }
}

/// A body that holds on to something (a place among the requests in flight) until it is sent or
/// given up.
pub fn holding<T: Send + Sync + Unpin + 'static>(body: Body, held: T) -> Body {
    Holding { body, _held: held }.boxed()
}

struct Holding<T> {
    body: Body,
    _held: T,
}

impl<T: Send + Sync + Unpin + 'static> http_body::Body for Holding<T> {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
