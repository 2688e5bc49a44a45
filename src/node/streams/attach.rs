//! `attach`: the streams of a container that runs already.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use hyper::body::Incoming;

use super::exec::frame;
use super::output::Output;
use super::{Aborted, Console, Pieces, Received, Wanted, outcome};
use crate::api::ApiError;
use crate::base::frames;
use crate::node::Node;
use crate::node::pods::Running;

/// What is answered are the container's frames from now on, until it ends.
///
/// # Errors
/// When there is no such container, it does not run, or too many clients are attached.
pub async fn attach(
    node: &Node,
    [namespace, pod, container]: [&str; 3],
    query: &str,
    body: Incoming,
) -> Result<Pieces, ApiError> {
    let wanted = Wanted::parse(query)?;
    let running = node.running(namespace, pod, container)?;
    let console = running.console.clone();
    let output = Arc::new(Output::new(true, console.tty, wanted.stdout, wanted.stderr));
    if console.attach(&output).is_none() {
        let text = format!("too many clients are attached to container {container:?} already");
        return Err(ApiError::too_many_requests(text, 1));
    }
    let has_input = wanted.stdin && console.input.is_some();
    let feeding = Aborted(tokio::spawn(feed(Received::new(body), running, has_input)));
    let leaving = Leaving { console, has_input };
    let session = Session { output, done: false, _leaving: leaving, _feeding: feeding };
    Ok(futures::stream::unfold(session, Session::next).boxed())
}

async fn feed(mut received: Received, running: Running, has_input: bool) {
    let Running { console, container, .. } = running;
    while let Some((channel, bytes)) = received.next().await {
        let Some(input) = console.input.as_ref().filter(|_| has_input) else { continue };
        match channel {
            frames::STDIN if console.tty => {
                let typed = console.typed(&bytes);
                input.write(typed.input.into()).await;
                if typed.end {
                    input.close();
                }
                if typed.interrupt
                    && let Some(container) = container.upgrade()
                {
                    container.stop(Duration::ZERO);
                }
            }
            frames::STDIN => input.write(bytes).await,
            frames::CLOSE if bytes.first() == Some(&frames::STDIN) => console.input_left(),
            _ => {}
        }
    }
}

struct Session {
    output: Arc<Output>,
    done: bool,
    _leaving: Leaving,
    _feeding: Aborted,
}

/// Tells the console that the client left, however it does.
struct Leaving {
    console: Arc<Console>,
    has_input: bool,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        if self.has_input {
            self.console.input_left();
        }
    }
}

impl Session {
    async fn next(mut self) -> Option<(std::io::Result<Bytes>, Session)> {
        if self.done {
            return None;
        }
        if let Some((stream, bytes)) = self.output.next().await {
            return Some((Ok(frame(stream, &bytes)), self));
        }
        self.done = true;
        Some((Ok(outcome(0, "")), self))
    }
}
