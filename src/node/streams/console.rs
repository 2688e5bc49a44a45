//! The standard streams of one running container: its log, its input, and who is attached.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use k8s_openapi::api::core::v1::Container as ContainerSource;
use parking_lot::Mutex;

use super::output::Output;
use super::terminal::{Terminal, Typed};
use crate::node::logs::AttemptLog;
use crate::runtime::{Input, LogSink, LogStream};

/// What a container with an input wrote before anybody attached is kept for the first who does: it
/// may be what asks them for their input. In bytes, the newest.
const MAX_EARLY_BYTES: usize = 64 << 10;
/// Clients attached to one container.
const MAX_ATTACHED: usize = 16;

/// See the module's documentation.
pub struct Console {
    pub log: Arc<AttemptLog>,
    pub input: Option<Input>,
    pub tty: bool,
    /// The input ends when the first client that had it leaves (`stdinOnce`).
    once: bool,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    attached: Vec<Weak<Output>>,
    early: Option<VecDeque<(LogStream, Bytes)>>,
    early_bytes: usize,
    closed: bool,
    terminal: Terminal,
}

impl Console {
    pub fn new(log: Arc<AttemptLog>, source: &ContainerSource) -> Arc<Console> {
        let stdin = source.stdin == Some(true);
        let inner = Inner { early: stdin.then(VecDeque::new), ..Inner::default() };
        Arc::new(Console {
            log,
            input: stdin.then(Input::default),
            tty: source.tty == Some(true),
            once: stdin && source.stdin_once == Some(true),
            inner: Mutex::new(inner),
        })
    }

    /// From now on the client gets what the container writes. `None`: too many are there.
    pub fn attach(&self, output: &Arc<Output>) -> Option<()> {
        let mut inner = self.inner.lock();
        inner.attached.retain(|one| one.strong_count() > 0);
        if inner.attached.len() >= MAX_ATTACHED {
            return None;
        }
        for (stream, bytes) in inner.early.take().into_iter().flatten() {
            output.write(stream, &bytes);
        }
        if inner.closed {
            output.close();
        }
        inner.attached.push(Arc::downgrade(output));
        Some(())
    }

    /// Keys of a client, through the one terminal that the container has. All who are attached see
    /// the echo.
    pub fn typed(&self, keys: &[u8]) -> Typed {
        let mut inner = self.inner.lock();
        let typed = inner.terminal.typed(keys);
        for output in inner.attached.iter().filter_map(Weak::upgrade) {
            output.echo(typed.echo.clone());
        }
        typed
    }

    /// A client that had the input left, or ended it.
    pub fn input_left(&self) {
        if let Some(input) = self.input.as_ref().filter(|_| self.once) {
            input.close();
        }
    }

    /// The container ended.
    pub fn close(&self) {
        self.log.close();
        if let Some(input) = &self.input {
            input.close();
        }
        let mut inner = self.inner.lock();
        inner.closed = true;
        inner.early = None;
        inner.attached.drain(..).filter_map(|one| one.upgrade()).for_each(|one| one.close());
    }
}

impl LogSink for Console {
    fn write(&self, stream: LogStream, bytes: &[u8]) {
        self.log.write(stream, bytes);
        let mut inner = self.inner.lock();
        let Inner { attached, early, early_bytes, .. } = &mut *inner;
        for output in attached.iter().filter_map(Weak::upgrade) {
            output.write(stream, bytes);
        }
        if let Some(early) = early {
            *early_bytes += bytes.len();
            early.push_back((stream, Bytes::copy_from_slice(bytes)));
            while *early_bytes > MAX_EARLY_BYTES
                && let Some((_, oldest)) = early.pop_front()
            {
                *early_bytes -= oldest.len();
            }
        }
    }
}
