//! A command's streams over SPDY: one stream for each, told apart by their header `streamtype`.

use std::io;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

use super::bridge::{FromClient, ToClient};
use super::options::Options;
use crate::apiserver::spdy::{Session, Stream, StreamReader, StreamWriter};
use crate::base::frames::{self, Frame};

/// A client that opened all that it needs.
pub struct Client {
    pub session: Session,
    pub reader: Reader,
    pub writer: Writer,
}

/// The channels and the names of their streams.
const NAMES: &[(u8, &str)] = &[
    (frames::ERROR, "error"),
    (frames::STDIN, "stdin"),
    (frames::STDOUT, "stdout"),
    (frames::STDERR, "stderr"),
    (frames::RESIZE, "resize"),
];

impl Client {
    /// Waits for the streams that the options name; `None` when the client leaves before, or opens
    /// others.
    pub async fn open(
        io: impl AsyncRead + AsyncWrite + Send + 'static,
        options: &Options,
    ) -> Option<Client> {
        let mut session = Session::start(io);
        let mut wanted = vec![frames::ERROR];
        let flags = [
            (frames::STDIN, options.stdin),
            (frames::STDOUT, options.stdout),
            (frames::STDERR, options.stderr),
            (frames::RESIZE, options.tty),
        ];
        wanted.extend(flags.iter().filter(|(_, on)| *on).map(|(channel, _)| *channel));
        let mut streams: Vec<(u8, Stream)> = Vec::new();
        while streams.len() < wanted.len() {
            let stream = session.accept().await?;
            let kind = stream.header("streamtype");
            let (channel, _) = NAMES.iter().find(|(_, name)| *name == kind)?;
            if !wanted.contains(channel) || streams.iter().any(|(known, _)| known == channel) {
                return None;
            }
            streams.push((*channel, stream));
        }
        let (mut stdin, mut resize, mut writers) = (None, None, Vec::new());
        for (channel, stream) in streams {
            match channel {
                frames::STDIN => stdin = Some(stream.reader),
                frames::RESIZE => resize = Some(stream.reader),
                _ => {}
            }
            writers.push((channel, stream.writer));
        }
        let closed = Box::pin(session.closed());
        let reader = Reader { stdin, resize, closed };
        Some(Client { session, reader, writer: Writer(writers) })
    }
}

pub struct Reader {
    stdin: Option<StreamReader>,
    resize: Option<StreamReader>,
    closed: futures::future::BoxFuture<'static, ()>,
}

impl FromClient for Reader {
    async fn next(&mut self) -> Option<Frame> {
        loop {
            tokio::select! {
                piece = next(&mut self.stdin) => {
                    return Some(match piece {
                        Some(bytes) => (frames::STDIN, bytes),
                        None => {
                            self.stdin = None;
                            (frames::CLOSE, Bytes::from_static(&[frames::STDIN]))
                        }
                    });
                }
                piece = next(&mut self.resize) => match piece {
                    Some(bytes) => return Some((frames::RESIZE, bytes)),
                    None => self.resize = None,
                },
                () = &mut self.closed => return None,
            }
        }
    }
}

/// Waits for ever on a stream that is not there.
async fn next(stream: &mut Option<StreamReader>) -> Option<Bytes> {
    match stream {
        Some(stream) => stream.next().await,
        None => std::future::pending().await,
    }
}

pub struct Writer(Vec<(u8, StreamWriter)>);

impl Writer {
    /// Ends all streams.
    pub async fn finish(&mut self) {
        for (_, writer) in &mut self.0 {
            if writer.finish().await.is_err() {
                return;
            }
        }
    }
}

impl ToClient for Writer {
    async fn send(&mut self, (channel, bytes): Frame) -> io::Result<()> {
        match self.0.iter_mut().find(|(known, _)| *known == channel) {
            Some((_, writer)) => writer.send(&bytes).await,
            None => Ok(()),
        }
    }
}
