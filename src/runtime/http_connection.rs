//! One connection to an HTTP handler: which protocol it speaks, how long it may be idle or stuck,
//! and how it ends without losing a request.
//!
//! hyper speaks the protocol; here its connection is polled together with one timer. What the
//! timer is for is known from [`Activity`], which the stream and the requests tell what happens.
//!
//! An HTTP/1 server that closes an idle connection cannot know whether a request is on its way.
//! So a connection is closed only when nothing is in its kernel's queue, and when the container
//! stops, only after the time in which responses tell the clients that the connection ends.
//! Where a client may still be sending, what it sends is taken for a while: a reset would take the
//! answer away with it.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::{HeaderValue, Request, Response, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until};

use super::http::{Phase, Server};
use super::http_activity::{Activity, InFlight, Next, ReadOff, TooSlow, Watched};
use super::http_body::GuestBody;
use super::http_request_body::{RequestBody, Unread};
use super::tasks::TaskExecutor;
use crate::base::head::answered;
use crate::base::tcp::{Linger, has_unread};

/// Streams of one HTTP/2 connection.
const MAX_STREAMS: u32 = 128;
/// Bytes of a request's head.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// Header fields of a request.
const MAX_HEADERS: usize = 100;
/// How often an HTTP/2 client is asked whether it is still there.
const PING_INTERVAL: Duration = Duration::from_secs(15);
/// What a client is told whose request's head does not come to its end.
const REQUEST_TIMEOUT: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
/// How every HTTP/2 connection begins (RFC 9113, section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HT";

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Serves a connection until it ends.
///
/// # Errors
/// When the client broke the protocol, went away in the middle or was too slow.
pub async fn serve(server: Arc<Server>, stream: TcpStream) -> Result<(), BoxError> {
    stream.set_nodelay(true)?;
    let address = stream.local_addr()?;
    let accepted = Instant::now();
    let Some(http2) = protocol(&server, &stream, accepted).await? else { return Ok(()) };
    let activity = Arc::new(Activity::new(accepted, http2));
    let io = TokioIo::new(Watched { stream, activity: activity.clone() });
    let service = {
        let (server, activity) = (server.clone(), activity.clone());
        service_fn(move |request: Request<Incoming>| {
            let (server, activity) = (server.clone(), activity.clone());
            let in_flight = InFlight::new(&activity);
            async move {
                let method = request.method().clone();
                let (request, unread) = RequestBody::of(request, server.limits.stalled_client);
                let mut response = server.serve(request, address).await;
                if let Some(unread) = unread {
                    settle(unread, &mut response, &server, &activity).await;
                }
                response.body_mut().in_flight = Some(in_flight);
                Ok::<_, Infallible>(answered(&method, response))
            }
        })
    };
    if http2 {
        let tasks = TaskExecutor(server.tasks.clone());
        let connection = hyper::server::conn::http2::Builder::new(tasks)
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEAD_BYTES as u32)
            .keep_alive_interval(PING_INTERVAL)
            .serve_connection(io, service);
        // GOAWAY loses no request, so it need not wait.
        return drive(pin!(connection), &activity, &server, Phase::Stopping).await;
    }
    // What is answered is sent at once (no `pipeline_flush`): hyper holds it back as long as it has
    // bytes that it has not parsed, whole requests or not.
    let mut connection = hyper::server::conn::http1::Builder::new()
        .header_read_timeout(None)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS)
        .serve_connection(io, service);
    let ended = drive(Pin::new(&mut connection), &activity, &server, Phase::Closing).await;
    let Watched { stream, .. } = connection.into_parts().io.into_inner();
    close(stream, &ended, &activity, &server).await;
    ended
}

/// Says in the answer that the connection ends, if too much of the request's body is not read for it
/// to be kept; and has the rest taken off.
async fn settle(
    mut unread: Unread,
    response: &mut Response<GuestBody>,
    server: &Arc<Server>,
    activity: &Arc<Activity>,
) {
    let keeps = unread.lets_keep().await;
    if !keeps {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    let read_off = ReadOff::new(activity);
    if unread.is_over() {
        if !keeps {
            read_off.leave();
        }
        return;
    }
    let of_task = server.clone();
    server.tasks.spawn(async move {
        let is_read = of_task.before_its_end(unread.take_off()).await;
        // Told before hyper learns of it and ends the connection.
        if is_read != Some(true) {
            read_off.leave();
        }
        drop(unread);
    });
}

/// Closes a connection of HTTP/1 that has ended.
async fn close(
    mut stream: TcpStream,
    ended: &Result<(), BoxError>,
    activity: &Activity,
    server: &Server,
) {
    match ended.as_ref().map_err(|error| error.downcast_ref::<TooSlow>()) {
        Ok(()) if !activity.is_left() && !has_unread(&stream) => return,
        Ok(()) | Err(None) => {}
        // Nothing waits to be sent: if there is no room for these few bytes, nobody reads.
        Err(Some(TooSlow::Head)) => {
            let _ = stream.try_write(REQUEST_TIMEOUT);
        }
        Err(Some(TooSlow::Taking | TooSlow::LettingGo)) => return,
    }
    server.before_its_end(Linger::AFTER_ANSWER.close(&mut stream)).await;
}

/// Waits for the first bytes: `Some(true)` for HTTP/2, `None` when there are none.
async fn protocol(
    server: &Server,
    stream: &TcpStream,
    accepted: Instant,
) -> io::Result<Option<bool>> {
    let limits = &server.limits;
    let is_over = async {
        tokio::select! {
            () = sleep(limits.idle) => {}
            () = server.reaches(Phase::Closing) => sleep_until(accepted + limits.first_byte).await,
        }
    };
    tokio::select! {
        biased;
        http2 = speaks_http2(stream) => return http2.map(Some),
        () = is_over => {}
    }
    if has_unread(stream) { speaks_http2(stream).await.map(Some) } else { Ok(None) }
}

/// Looks at a connection's first bytes and leaves them where they are.
async fn speaks_http2(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0_u8; HTTP2_PREFACE.len()];
    let count = stream.peek(&mut first).await?;
    Ok(count == first.len() && first == *HTTP2_PREFACE)
}

/// Polls a connection to its end, and ends it when it is idle or stuck for too long, or when the
/// container has come to `last_phase`.
async fn drive<C>(
    mut connection: Pin<&mut C>,
    activity: &Activity,
    server: &Server,
    last_phase: Phase,
) -> Result<(), BoxError>
where
    C: GracefulConnection,
    C::Error: Into<BoxError>,
{
    let mut is_last = pin!(server.reaches(last_phase));
    let mut timer = pin!(sleep(server.limits.idle));
    poll_fn(|cx| {
        loop {
            if !activity.is_ending() && is_last.as_mut().poll(cx).is_ready() {
                activity.end();
            }
            // Before all else: it reads what has come.
            if let Poll::Ready(result) = connection.as_mut().poll(cx) {
                return Poll::Ready(result.map_err(Into::into));
            }
            match activity.next(cx, &server.limits) {
                Next::Close => connection.as_mut().graceful_shutdown(),
                Next::Look(at) => {
                    // A timer that fires too early costs one more look, less than many resets.
                    if at < timer.deadline() || timer.is_elapsed() {
                        timer.as_mut().reset(at);
                    }
                    if timer.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                }
                Next::End => activity.end(),
                Next::Fail(why) => return Poll::Ready(Err(why.into())),
            }
        }
    })
    .await
}
