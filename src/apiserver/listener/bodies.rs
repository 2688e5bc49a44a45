//! Bodies that end when the server stops.
//!
//! A watch or a followed log has no end of its own. Cut off in the middle it would look like a
//! fault to its client; ended between two frames it is what clients expect and begin again from.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Response;
use http::header::CONTENT_LENGTH;
use http_body::{Body as HttpBody, Frame, SizeHint};

use crate::apiserver::Body;
use crate::base::tasks::Stop;

pub(super) struct UntilStop {
    body: Body,
    /// `None` for bodies of known length, which are always finished.
    stop: Option<Pin<Box<dyn Future<Output = ()> + Send + Sync>>>,
    ended: bool,
}

impl UntilStop {
    pub(super) fn wrap(response: Response<Body>, stop: Stop) -> Response<UntilStop> {
        let (head, body) = response.into_parts();
        let endless =
            body.size_hint().exact().is_none() && !head.headers.contains_key(CONTENT_LENGTH);
        let stop = endless.then(|| {
            let wait: Pin<Box<dyn Future<Output = ()> + Send + Sync>> =
                Box::pin(async move { stop.wait().await });
            wait
        });
        Response::from_parts(head, UntilStop { body, stop, ended: false })
    }
}

impl HttpBody for UntilStop {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        // What is ready is sent first: an event that was read from the store is not lost.
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(frame) => Poll::Ready(frame),
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

    fn is_end_stream(&self) -> bool {
        self.ended || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
