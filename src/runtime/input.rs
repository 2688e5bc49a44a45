//! A guest's standard input: a pipe that somebody outside fills. Bounded: who fills it waits for
//! the guest, and the guest waits for bytes or the end.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, ReadBuf};
use wasmtime_wasi::cli::{IsTerminal, StdinStream};

/// Bytes that wait for the guest; whoever has more waits.
const MAX_WAITING_BYTES: usize = 64 << 10;

/// Both ends of the pipe; clones are the same pipe.
#[derive(Clone, Default)]
pub struct Input(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    waiting: VecDeque<Bytes>,
    bytes: usize,
    closed: bool,
    readers: Vec<Waker>,
    writers: Vec<Waker>,
}

impl Input {
    /// Adds bytes once there is room. What comes after the end is dropped.
    pub async fn write(&self, bytes: Bytes) {
        poll_fn(|cx| {
            let mut state = self.0.lock();
            if state.closed || bytes.is_empty() {
                return Poll::Ready(());
            }
            if state.bytes >= MAX_WAITING_BYTES {
                keep(&mut state.writers, cx);
                return Poll::Pending;
            }
            state.bytes += bytes.len();
            state.waiting.push_back(bytes.clone());
            wake(&mut state.readers);
            Poll::Ready(())
        })
        .await
    }

    /// Nothing more will come.
    pub fn close(&self) {
        let mut state = self.0.lock();
        state.closed = true;
        wake(&mut state.readers);
        wake(&mut state.writers);
    }

    pub fn is_closed(&self) -> bool {
        self.0.lock().closed
    }

    /// The next bytes; `None` at the end.
    pub async fn next(&mut self) -> Option<Bytes> {
        poll_fn(|cx| self.poll_take(cx, usize::MAX)).await
    }

    fn poll_take(&self, cx: &mut Context<'_>, most: usize) -> Poll<Option<Bytes>> {
        let mut state = self.0.lock();
        let Some(first) = state.waiting.front_mut() else {
            if state.closed {
                return Poll::Ready(None);
            }
            keep(&mut state.readers, cx);
            return Poll::Pending;
        };
        let taken = first.split_to(first.remaining().min(most));
        if first.is_empty() {
            state.waiting.pop_front();
        }
        state.bytes -= taken.len();
        wake(&mut state.writers);
        Poll::Ready(Some(taken))
    }
}

fn keep(wakers: &mut Vec<Waker>, cx: &Context<'_>) {
    if !wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
        wakers.push(cx.waker().clone());
    }
}

fn wake(wakers: &mut Vec<Waker>) {
    wakers.drain(..).for_each(Waker::wake);
}

/// The input as a guest has it.
pub struct GuestInput {
    pub input: Input,
    pub tty: bool,
}

impl IsTerminal for GuestInput {
    fn is_terminal(&self) -> bool {
        self.tty
    }
}

impl StdinStream for GuestInput {
    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        Box::new(self.input.clone())
    }
}

impl AsyncRead for Input {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        self.poll_take(cx, buffer.remaining()).map(|taken| {
            buffer.put_slice(&taken.unwrap_or_default());
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn who_fills_it_waits_for_the_guest() {
        let pipe = Input::default();
        pipe.write(Bytes::from(vec![1; MAX_WAITING_BYTES])).await;
        let mut more = Box::pin(pipe.write(Bytes::from_static(b"more")));
        assert!(more.as_mut().now_or_never().is_none());
        let mut reader = pipe.clone();
        assert_eq!(reader.next().await.map(|bytes| bytes.len()), Some(MAX_WAITING_BYTES));
        more.await;
        pipe.close();
        pipe.write(Bytes::from_static(b"too late")).await;
        assert_eq!(reader.next().await.as_deref(), Some(&b"more"[..]));
        assert_eq!(reader.next().await, None);
    }
}
