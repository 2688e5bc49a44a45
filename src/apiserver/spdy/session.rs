//! One SPDY connection: two tasks, one that reads and hands bytes to streams, one that writes what
//! streams queue.
//!
//! There is no flow control, so a stream whose bytes nobody takes holds up the others of its
//! connection, as it does at every other server that these clients talk to; nothing grows.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::frame::{self, Decoder, Encoder, Event, MAX_DATA_BYTES, ResetCode};
use super::headers::Headers;

/// Streams open at once on one connection; two for each forwarded connection.
const MAX_STREAMS: usize = 512;
/// Pieces of at most [`READ_BYTES`] that wait for the taker of a stream.
const PIECES_OF_A_STREAM: usize = 8;
/// Frames that wait to be written.
const FRAMES: usize = 16;
const READ_BYTES: usize = 16 << 10;
/// Streams that wait for somebody to take them up.
const NEW_STREAMS: usize = 16;
/// How often a silent peer is asked, so that the system notices one that is gone.
const PING_PERIOD: Duration = Duration::from_secs(30);
/// For the peer to close after we did.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// A connection. Dropping it ends it.
pub struct Session {
    new: mpsc::Receiver<Stream>,
    queue: Option<mpsc::Sender<Bytes>>,
    closed: watch::Receiver<bool>,
    reading: JoinHandle<()>,
    writing: JoinHandle<()>,
}

/// A stream that the client opened.
pub struct Stream {
    pub headers: Headers,
    pub reader: StreamReader,
    pub writer: StreamWriter,
}

impl Stream {
    /// The value of a header, "" without one.
    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map_or("", |(_, value)| value)
    }
}

/// What the client sends on a stream.
pub struct StreamReader(mpsc::Receiver<Bytes>);

impl StreamReader {
    /// The next bytes; `None` at the end of the stream, or of the connection.
    pub async fn next(&mut self) -> Option<Bytes> {
        self.0.recv().await
    }
}

/// What the client gets on a stream. Dropped before its end, the stream is given up.
pub struct StreamWriter {
    stream: u32,
    queue: mpsc::WeakSender<Bytes>,
    finished: bool,
}

impl StreamWriter {
    /// # Errors
    /// When the connection has ended.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(MAX_DATA_BYTES) {
            self.queue(frame::data(self.stream, piece, false)).await?;
        }
        Ok(())
    }

    /// The end of the stream, as far as we send.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn finish(&mut self) -> io::Result<()> {
        if std::mem::replace(&mut self.finished, true) {
            return Ok(());
        }
        self.queue(frame::data(self.stream, &[], true)).await
    }

    async fn queue(&self, frame: Bytes) -> io::Result<()> {
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        let queue = self.queue.upgrade().ok_or_else(gone)?;
        queue.send(frame).await.map_err(|_| gone())
    }
}

impl Drop for StreamWriter {
    fn drop(&mut self) {
        if !self.finished
            && let Some(queue) = self.queue.upgrade()
        {
            // A queue that is full belongs to a connection that has other troubles.
            let _ = queue.try_send(frame::reset(self.stream, ResetCode::Cancel));
        }
    }
}

impl Session {
    /// Runs a connection on the current runtime.
    pub fn start(io: impl AsyncRead + AsyncWrite + Send + 'static) -> Session {
        let (reader, writer) = tokio::io::split(io);
        let (queue, frames) = mpsc::channel(FRAMES);
        let (opened, new) = mpsc::channel(NEW_STREAMS);
        let (ended, closed) = watch::channel(false);
        let reader = Reader {
            io: reader,
            streams: HashMap::new(),
            last: 0,
            encoder: Encoder::default(),
            queue: queue.clone(),
            opened,
        };
        let reading = tokio::spawn(async move {
            if let Err(error) = reader.run().await {
                tracing::debug!(%error, "a SPDY connection ended");
            }
            ended.send_replace(true);
        });
        let writing = tokio::spawn(write(writer, frames));
        Session { new, queue: Some(queue), closed, reading, writing }
    }

    /// The next stream that the client opens; `None` when the connection has ended.
    pub async fn accept(&mut self) -> Option<Stream> {
        self.new.recv().await
    }

    /// Resolves when the client has left.
    pub fn closed(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut closed = self.closed.clone();
        async move {
            let _ = closed.wait_for(|closed| *closed).await;
        }
    }

    /// Writes what is queued, and closes.
    pub async fn finish(mut self) {
        self.new.close();
        self.queue = None;
        // The client leaves once all streams ended; who does not is left.
        let _ = timeout(CLOSE_LIMIT, self.closed()).await;
        self.reading.abort();
        let _ = timeout(CLOSE_LIMIT, &mut self.writing).await;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.reading.abort();
        self.writing.abort();
    }
}

struct Reader<IO> {
    io: ReadHalf<IO>,
    streams: HashMap<u32, mpsc::Sender<Bytes>>,
    /// The number of the newest stream: they only grow.
    last: u32,
    encoder: Encoder,
    queue: mpsc::Sender<Bytes>,
    opened: mpsc::Sender<Stream>,
}

impl<IO: AsyncRead + AsyncWrite + Send> Reader<IO> {
    async fn run(mut self) -> io::Result<()> {
        let mut decoder = Decoder::default();
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let read = self.io.read(&mut buffer).await?;
            if read == 0 {
                return Ok(());
            }
            decoder.push(&buffer[..read]);
            while let Some(event) = decoder.take().map_err(io::Error::other)? {
                self.take(event).await?;
            }
        }
    }

    async fn take(&mut self, event: Event) -> io::Result<()> {
        match event {
            Event::Opened { stream, headers, ended } => self.open(stream, headers, ended).await,
            Event::Data { stream, bytes, ended } => {
                // What nobody takes any more is dropped.
                if let Some(taker) = self.streams.get(&stream)
                    && !bytes.is_empty()
                {
                    let _ = taker.send(bytes).await;
                }
                if ended {
                    self.streams.remove(&stream);
                }
                Ok(())
            }
            Event::Ended { stream } | Event::Reset { stream } => {
                self.streams.remove(&stream);
                Ok(())
            }
            // Odd ones are the client's; others answer ours.
            Event::Ping { id } if id % 2 == 1 => self.queue(frame::ping(id)).await,
            Event::Ping { .. } | Event::GoAway => Ok(()),
        }
    }

    async fn open(&mut self, stream: u32, headers: Headers, ended: bool) -> io::Result<()> {
        self.streams.retain(|_, taker| !taker.is_closed());
        if stream.is_multiple_of(2) || stream <= self.last {
            return self.queue(frame::reset(stream, ResetCode::ProtocolError)).await;
        }
        self.last = stream;
        if self.streams.len() >= MAX_STREAMS {
            return self.queue(frame::reset(stream, ResetCode::RefusedStream)).await;
        }
        let (taker, pieces) = mpsc::channel(PIECES_OF_A_STREAM);
        if !ended {
            self.streams.insert(stream, taker);
        }
        let reply = self.encoder.reply(stream);
        self.queue(reply).await?;
        let writer = StreamWriter { stream, queue: self.queue.downgrade(), finished: false };
        let new = Stream { headers, reader: StreamReader(pieces), writer };
        // Nobody takes new ones while the session ends.
        let _ = self.opened.send(new).await;
        Ok(())
    }

    async fn queue(&mut self, frame: Bytes) -> io::Result<()> {
        self.queue.send(frame).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// Writes frames in their order until nobody has more of them.
async fn write<IO: AsyncRead + AsyncWrite>(
    mut io: WriteHalf<IO>,
    mut frames: mpsc::Receiver<Bytes>,
) {
    let mut pings = 0;
    loop {
        let frame = match timeout(PING_PERIOD, frames.recv()).await {
            Ok(Some(frame)) => frame,
            Ok(None) => break,
            Err(_) => {
                pings += 2;
                frame::ping(pings)
            }
        };
        let flush = frames.is_empty();
        if io.write_all(&frame).await.is_err() || (flush && io.flush().await.is_err()) {
            return;
        }
    }
    let _ = io.shutdown().await;
}
