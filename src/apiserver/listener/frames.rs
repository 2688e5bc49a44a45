//! Counts the HTTP/2 frames of a peer that ask for work and carry nothing: pings, settings, resets,
//! window updates, empty data, pieces of headers (CVE-2019-9512 to 9518, CVE-2024-27983).
//!
//! A client sends a few of them for each answer that it reads, and now and then one for itself.
//! What goes beyond that budget is a flood, and its connection fails. Resets of streams that were
//! just opened, and the size of headers, are bounded by h2 itself.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// Frames that may come at once, and a second.
const BURST_FRAMES: f64 = 10_000.0;
const FRAMES_PER_SECOND: f64 = 500.0;
/// Bytes of answers that earn one frame more: clients tell of each few kilobytes that they read.
const BYTES_PER_FRAME: f64 = 512.0;
/// Data frames that are shorter carry next to nothing, unless they end a body.
const SMALL_DATA_BYTES: usize = 64;

/// The connection preface (RFC 9113, 3.4), which comes before the first frame.
const PREFACE_BYTES: usize = 24;
const HEAD_BYTES: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const END_STREAM: u8 = 1;

/// The plaintext of an HTTP/2 connection.
pub(super) struct Frames<S> {
    stream: S,
    meter: Meter,
}

struct Meter {
    /// Bytes to pass over: the preface, a frame's payload.
    skip: usize,
    head: [u8; HEAD_BYTES],
    filled: usize,
    budget: f64,
    counted: Instant,
}

impl<S> Frames<S> {
    pub(super) fn new(stream: S) -> Frames<S> {
        Frames { stream, meter: Meter::new(Instant::now()) }
    }
}

impl Meter {
    fn new(now: Instant) -> Meter {
        Meter {
            skip: PREFACE_BYTES,
            head: [0; HEAD_BYTES],
            filled: 0,
            budget: BURST_FRAMES,
            counted: now,
        }
    }

    /// Takes what was read; `false` once the budget is spent.
    fn read(&mut self, mut bytes: &[u8], now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.counted).as_secs_f64();
        self.counted = now;
        self.earn(passed * FRAMES_PER_SECOND);
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let taken = (HEAD_BYTES - self.filled).min(bytes.len());
            self.head[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
            self.filled += taken;
            bytes = &bytes[taken..];
            if self.filled == HEAD_BYTES {
                self.filled = 0;
                self.frame();
            }
        }
        self.budget >= 0.0
    }

    fn frame(&mut self) {
        let [a, b, c, kind, flags, ..] = self.head;
        self.skip = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        let carries = match kind {
            HEADERS => true,
            DATA => self.skip >= SMALL_DATA_BYTES || flags & END_STREAM != 0,
            _ => false,
        };
        if !carries {
            self.budget -= 1.0;
        }
    }

    fn earn(&mut self, frames: f64) {
        self.budget = (self.budget + frames).min(BURST_FRAMES);
    }

    fn wrote(&mut self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = result {
            self.earn(bytes as f64 / BYTES_PER_FRAME);
        }
        result
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Frames<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(context, buffer);
        if let Poll::Ready(Ok(())) = result
            && !self.meter.read(&buffer.filled()[before..], Instant::now())
        {
            let why = "a flood of HTTP/2 frames that carry nothing";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, why)));
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Frames<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.meter.wrote(result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.meter.wrote(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let mut bytes = (payload as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags, 0, 0, 0, 1]);
        bytes.extend(vec![0; payload]);
        bytes
    }

    /// How many of a frame a peer may send at once, whole or in pieces.
    fn allowed(bytes: &[u8], pieces: usize) -> usize {
        let now = Instant::now();
        let mut meter = Meter::new(now);
        assert!(meter.read(&[b'P'; PREFACE_BYTES], now));
        let most = 2 * BURST_FRAMES as usize;
        (0..most)
            .find(|_| !bytes.chunks(pieces).all(|piece| meter.read(piece, now)))
            .unwrap_or(most)
    }

    #[tokio::test(start_paused = true)]
    async fn only_frames_without_a_load_are_counted() {
        let (burst, all) = (BURST_FRAMES as usize, 2 * BURST_FRAMES as usize);
        for pieces in [1, 7, 100] {
            assert_eq!(allowed(&frame(6, 0, 8), pieces), burst, "pings");
            assert_eq!(allowed(&frame(4, 0, 0), pieces), burst, "settings");
            assert_eq!(allowed(&frame(DATA, 0, 0), pieces), burst, "empty data");
            assert_eq!(allowed(&frame(DATA, 0, 100), pieces), all, "data");
            assert_eq!(allowed(&frame(DATA, END_STREAM, 0), pieces), all, "the end of a body");
            assert_eq!(allowed(&frame(HEADERS, 4, 30), pieces), all, "requests");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn time_and_answers_earn_frames() {
        let now = Instant::now();
        let mut meter = Meter::new(now);
        meter.budget = 0.0;
        meter.skip = 0;
        let ping = frame(6, 0, 8);
        assert!(!meter.read(&ping, now));
        assert!(meter.read(&ping, now + Duration::from_secs(1)));
        meter.budget = 0.0;
        let _ = meter.wrote(Poll::Ready(Ok(1024)));
        assert!(meter.read(&ping, now + Duration::from_secs(1)));
    }
}
