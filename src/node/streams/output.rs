//! What a guest wrote and a client has not taken yet: a bounded queue. Of a command that the client
//! started, nothing is lost: the guest waits. Who attached to a container must not hold it up: what
//! a slow one does not take is dropped, with a word about it.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use parking_lot::Mutex;

use super::terminal;
use crate::runtime::{LogSink, LogStream};

/// Bytes that wait for the client.
const MAX_WAITING_BYTES: usize = 256 << 10;

/// See the module's documentation.
pub struct Output {
    state: Mutex<State>,
    /// Whether more than the bound is dropped.
    lossy: bool,
    /// Both streams are one, with the line ends of a terminal.
    tty: bool,
    /// Streams that nobody asked for are not kept.
    stdout: bool,
    stderr: bool,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<(LogStream, Bytes)>,
    bytes: usize,
    dropped_bytes: usize,
    closed: bool,
    reader: Option<Waker>,
    writers: Vec<Waker>,
}

impl Output {
    pub fn new(lossy: bool, tty: bool, stdout: bool, stderr: bool) -> Output {
        Output { state: Mutex::default(), lossy, tty, stdout, stderr }
    }

    /// The guest's and the terminal's own bytes.
    fn add(&self, stream: LogStream, bytes: Bytes) {
        let mut state = self.state.lock();
        if bytes.is_empty() || state.closed {
            return;
        }
        if self.lossy && state.bytes >= MAX_WAITING_BYTES {
            state.dropped_bytes += bytes.len();
            return;
        }
        if state.dropped_bytes > 0 {
            let dropped = std::mem::take(&mut state.dropped_bytes);
            let end = if self.tty { "\r\n" } else { "\n" };
            let text = Bytes::from(format!("[{dropped} bytes were not taken in time]{end}"));
            state.bytes += text.len();
            state.waiting.push_back((stream, text));
        }
        state.bytes += bytes.len();
        state.waiting.push_back((stream, bytes));
        if let Some(reader) = state.reader.take() {
            reader.wake();
        }
    }

    /// What a terminal shows of what is typed.
    pub fn echo(&self, bytes: Vec<u8>) {
        if self.stdout {
            self.add(LogStream::Stdout, bytes.into());
        }
    }

    pub fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    /// Nothing more will come.
    pub fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        if let Some(reader) = state.reader.take() {
            reader.wake();
        }
        state.writers.drain(..).for_each(Waker::wake);
    }

    /// The next bytes; `None` when it is closed and empty. There is one reader.
    pub async fn next(&self) -> Option<(LogStream, Bytes)> {
        poll_fn(|cx| {
            let mut state = self.state.lock();
            match state.waiting.pop_front() {
                Some((stream, bytes)) => {
                    state.bytes -= bytes.len();
                    state.writers.drain(..).for_each(Waker::wake);
                    Poll::Ready(Some((stream, bytes)))
                }
                None if state.closed => Poll::Ready(None),
                None => {
                    state.reader = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }
}

impl LogSink for Output {
    fn write(&self, stream: LogStream, bytes: &[u8]) {
        let stream = if self.tty { LogStream::Stdout } else { stream };
        let wanted = match stream {
            LogStream::Stdout => self.stdout,
            LogStream::Stderr => self.stderr,
        };
        if wanted {
            let shown =
                if self.tty { terminal::shown(bytes) } else { Bytes::copy_from_slice(bytes) };
            self.add(stream, shown);
        }
    }

    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        if self.lossy || state.closed || state.bytes < MAX_WAITING_BYTES {
            return Poll::Ready(());
        }
        if !state.writers.iter().any(|waker| waker.will_wake(cx.waker())) {
            state.writers.push(cx.waker().clone());
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_command_waits_for_its_client() {
        let output = Output::new(false, false, true, true);
        output.write(LogStream::Stderr, &vec![1; MAX_WAITING_BYTES]);
        assert!(poll_fn(|cx| output.poll_ready(cx)).now_or_never().is_none());
        assert_eq!(output.next().await.map(|(_, bytes)| bytes.len()), Some(MAX_WAITING_BYTES));
        assert!(poll_fn(|cx| output.poll_ready(cx)).now_or_never().is_some());
        output.write(LogStream::Stdout, b"last");
        output.close();
        output.write(LogStream::Stdout, b"too late");
        assert_eq!(output.next().await, Some((LogStream::Stdout, Bytes::from("last"))));
        assert_eq!(output.next().await, None);
    }

    #[tokio::test]
    async fn who_attached_and_is_slow_is_told_what_was_dropped() {
        let output = Output::new(true, false, true, false);
        output.write(LogStream::Stdout, &vec![1; MAX_WAITING_BYTES]);
        output.write(LogStream::Stdout, b"lost");
        output.write(LogStream::Stderr, b"nobody wants it");
        assert!(poll_fn(|cx| output.poll_ready(cx)).now_or_never().is_some());
        output.next().await;
        output.write(LogStream::Stdout, b"more");
        let (_, told) = output.next().await.unwrap();
        assert_eq!(told, "[4 bytes were not taken in time]\n");
        assert_eq!(output.next().await.unwrap().1, "more");
    }
}
