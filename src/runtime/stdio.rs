//! A guest's standard output: it goes to the container's log sink. Its input is in `input`.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use super::{LogSink, LogStream};

/// Bytes given to the sink at once: a guest that writes more is cut into chunks.
pub const MAX_CHUNK_BYTES: usize = 64 << 10;

/// One output stream of one container; clones write to the same place.
#[derive(Clone)]
pub struct LogWriter {
    sink: Arc<dyn LogSink>,
    stream: LogStream,
    tty: bool,
}

impl LogWriter {
    pub fn new(sink: Arc<dyn LogSink>, stream: LogStream, tty: bool) -> Self {
        Self { sink, stream, tty }
    }

    /// A line of our own.
    pub fn write_line(&self, text: &str) {
        self.write_chunks(format!("{text}\n").as_bytes());
    }

    pub fn write_chunks(&self, bytes: &[u8]) {
        for chunk in bytes.chunks(MAX_CHUNK_BYTES) {
            self.sink.write(self.stream, chunk);
        }
    }
}

impl IsTerminal for LogWriter {
    fn is_terminal(&self) -> bool {
        self.tty
    }
}

impl StdoutStream for LogWriter {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl AsyncWrite for LogWriter {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.sink.poll_ready(cx));
        let taken = bytes.len().min(MAX_CHUNK_BYTES);
        if taken > 0 {
            self.sink.write(self.stream, &bytes[..taken]);
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[async_trait]
impl Pollable for LogWriter {
    async fn ready(&mut self) {
        std::future::poll_fn(|cx| self.sink.poll_ready(cx)).await
    }
}

impl OutputStream for LogWriter {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.write_chunks(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        let mut nobody = Context::from_waker(Waker::noop());
        Ok(if self.sink.poll_ready(&mut nobody).is_ready() { MAX_CHUNK_BYTES } else { 0 })
    }
}
