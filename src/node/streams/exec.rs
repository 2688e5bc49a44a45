//! `exec`: the container's program once more, in its sandbox, with the client at its streams. It
//! ends when the client leaves.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use hyper::body::Incoming;
use tokio::sync::{Notify, mpsc};

use super::output::Output;
use super::terminal::Terminal;
use super::{Aborted, Pieces, Received, Wanted, applets, outcome};
use crate::api::ApiError;
use crate::base::frames;
use crate::node::Node;
use crate::runtime::{Container, ExecSpec, Input, LogStream, RuntimeEvent, StartError};

/// The code of a shell for a program that is not there, and for one that cannot be run.
const NOT_FOUND: i32 = 127;
const NOT_RUN: i32 = 126;
/// The code of a program that was interrupted, 128 + 2.
const INTERRUPTED: i32 = 130;
/// A start and an end.
const EVENTS: usize = 2;

/// Starts the command; what is answered are its frames, the outcome last.
///
/// # Errors
/// When there is no such container, or it does not run.
pub async fn exec(
    node: &Node,
    [namespace, pod, container]: [&str; 3],
    query: &str,
    body: Incoming,
) -> Result<Pieces, ApiError> {
    let wanted = Wanted::parse(query)?;
    let Some(asked) = wanted.command.first() else {
        return Err(ApiError::bad_request(
            "you must specify at least one command for the container",
        ));
    };
    let running = node.running(namespace, pod, container)?;
    let applet = match running.programs.has(asked) {
        true => None,
        false => match applets::find(&wanted.command) {
            Some(applet) => Some(applet),
            None => return Ok(refusal(NOT_FOUND, &running.programs.advice(asked), wanted.tty)),
        },
    };
    let output = Arc::new(Output::new(false, wanted.tty, wanted.stdout, wanted.stderr));
    let input = wanted.stdin.then(Input::default);
    let (events, ends) = mpsc::channel(EVENTS);
    let guest = match applet {
        Some(applet) => {
            let Ok(place) = node.shared.applet_permits.clone().try_acquire_owned() else {
                let text = "too many copies are under way on this node already";
                return Err(ApiError::too_many_requests(text, 1));
            };
            // Who has no input reads its end.
            let ended = input.is_none().then(Input::default);
            ended.iter().for_each(Input::close);
            let streams = (input.clone().or(ended).unwrap_or_default(), output.clone());
            let clock = node.shared.clock.clone();
            applets::run(applet, running.mounts, clock, streams, events, place)
        }
        None => {
            let Some(guest) = running.container.upgrade() else {
                let text = format!("container {container:?} in pod {pod:?} is not running");
                return Err(ApiError::bad_request(text));
            };
            let spec = ExecSpec {
                id: node.shared.ids.uid(),
                args: wanted.command,
                logs: output.clone(),
                stdin: input.clone(),
                tty: wanted.tty,
            };
            match guest.exec(spec, events).await {
                Ok(guest) => guest,
                Err(StartError::Container(why)) => {
                    return Ok(refusal(NOT_RUN, &format!("exec: {why}"), wanted.tty));
                }
                Err(StartError::Internal(why)) => return Err(ApiError::unavailable(why)),
            }
        }
    };
    let interrupted = Arc::new(Notify::new());
    let feeding = feed(Received::new(body), input, wanted.tty, output.clone(), interrupted.clone());
    let session = Session {
        ends,
        output,
        interrupted,
        exit: None,
        done: false,
        guest,
        _feeding: Aborted(tokio::spawn(feeding)),
    };
    Ok(futures::stream::unfold(session, Session::next).boxed())
}

/// A command that was not run, told as a shell tells it.
fn refusal(code: i32, why: &str, tty: bool) -> Pieces {
    let (stream, end) = if tty { (frames::STDOUT, "\r\n") } else { (frames::STDERR, "\n") };
    let text = frames::encode(stream, format!("{why}{end}").as_bytes());
    futures::stream::iter([Ok(text), Ok(outcome(code, why))]).boxed()
}

/// Brings the client's input to the guest.
async fn feed(
    mut received: Received,
    input: Option<Input>,
    tty: bool,
    output: Arc<Output>,
    interrupted: Arc<Notify>,
) {
    let mut terminal = Terminal::default();
    while let Some((channel, bytes)) = received.next().await {
        match (channel, &input) {
            (frames::STDIN, Some(input)) if tty => {
                let typed = terminal.typed(&bytes);
                output.echo(typed.echo);
                input.write(typed.input.into()).await;
                if typed.end {
                    input.close();
                }
                if typed.interrupt {
                    interrupted.notify_one();
                }
            }
            (frames::STDIN, Some(input)) => input.write(bytes).await,
            (frames::CLOSE, Some(input)) if bytes.first() == Some(&frames::STDIN) => input.close(),
            // A terminal's size, which nothing in WASI tells a guest.
            _ => {}
        }
    }
    if let Some(input) = &input {
        input.close();
    }
}

/// A command that runs. Dropped with the answer's body, and the guest with it.
struct Session {
    ends: mpsc::Receiver<RuntimeEvent>,
    output: Arc<Output>,
    interrupted: Arc<Notify>,
    exit: Option<(i32, String)>,
    done: bool,
    guest: Box<dyn Container>,
    _feeding: Aborted,
}

impl Session {
    async fn next(mut self) -> Option<(std::io::Result<Bytes>, Session)> {
        if self.done {
            return None;
        }
        while self.exit.is_none() {
            tokio::select! {
                biased;
                Some((stream, bytes)) = self.output.next() => {
                    return Some((Ok(frame(stream, &bytes)), self));
                }
                event = self.ends.recv() => match event {
                    Some(RuntimeEvent::Started { .. } | RuntimeEvent::Readiness { .. }) => {}
                    Some(RuntimeEvent::Exited { exit, .. }) => {
                        self.exit = Some((exit.code, exit.message));
                    }
                    // The runtime is going down.
                    None => self.exit = Some((NOT_RUN, "the node stops".into())),
                },
                () = self.interrupted.notified() => {
                    self.guest.stop(std::time::Duration::ZERO);
                    self.exit = Some((INTERRUPTED, String::new()));
                }
            }
        }
        // What the guest wrote last.
        self.output.close();
        if let Some((stream, bytes)) = self.output.next().await {
            return Some((Ok(frame(stream, &bytes)), self));
        }
        self.done = true;
        let (code, why) = self.exit.clone().unwrap_or_default();
        Some((Ok(outcome(code, &why)), self))
    }
}

pub(super) fn frame(stream: LogStream, bytes: &[u8]) -> Bytes {
    let channel = match stream {
        LogStream::Stdout => frames::STDOUT,
        LogStream::Stderr => frames::STDERR,
    };
    frames::encode(channel, bytes)
}
