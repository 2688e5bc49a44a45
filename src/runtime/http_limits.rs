//! The times that bound requests and connections of HTTP handlers: generous, but no request and
//! no client holds an instance or a connection for ever. Sizes and counts are beside the code that
//! they bound.

use std::time::Duration;

/// How long what may take.
#[derive(Clone, Copy, Debug)]
pub struct HttpLimits {
    /// How long a connection without a request is kept: longer than load balancers and clients
    /// keep theirs (60 s, most often), so that it is they who close it, and no request of theirs
    /// meets a closed one. nginx's `keepalive_timeout`.
    pub idle: Duration,
    /// From the first byte of a request's head to its last one.
    pub request_head: Duration,
    /// From a request's head to its response's head, the time in queues included. Node.js'
    /// `requestTimeout`.
    pub response_head: Duration,
    /// How long a client may send nothing of a body that the guest reads, or take nothing of a
    /// response. nginx's `client_body_timeout` and `send_timeout`.
    pub stalled_client: Duration,
    /// How long a guest may write nothing in the middle of a response. Envoy's
    /// `stream_idle_timeout`.
    pub silent_guest: Duration,
    /// What a guest may do after its response is complete.
    pub background: Duration,
    /// How long connections are kept when the container stops, if they do not end by themselves:
    /// a client that sends its next request meanwhile is told to reconnect. At most
    /// [`Self::LINGER_PART`] of the grace period.
    pub linger: Duration,
    /// How long a connection that was just made may be without a request when the container stops.
    pub first_byte: Duration,
}

impl HttpLimits {
    /// The part of the grace period in which connections are kept: the rest is for what is under
    /// way then.
    pub const LINGER_PART: u32 = 3;
}

impl Default for HttpLimits {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            idle: seconds(75),
            request_head: seconds(10),
            response_head: seconds(300),
            stalled_client: seconds(60),
            silent_guest: seconds(300),
            background: seconds(300),
            linger: seconds(5),
            first_byte: seconds(1),
        }
    }
}
