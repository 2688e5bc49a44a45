//! The streams of a command in a pod, joined to those of this program: exec, attach.

use std::io::IsTerminal;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, bail};
use bytes::{BufMut, Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio_tungstenite::tungstenite::Message;

use super::args::LogsArgs;
use super::session::Session;
use super::{logs, printer};
use crate::base::frames;
use crate::client::remote::{Query, Socket};

/// Best first: the fifth can end the input alone.
const PROTOCOLS: &[&str] = &["v5.channel.k8s.io", "v4.channel.k8s.io"];
/// Bytes of input in one message.
const INPUT_BYTES: usize = 16 << 10;

/// The command ended, and not well; `wasmctl` ends with its exit code.
#[derive(Debug, PartialEq, thiserror::Error)]
#[error("command terminated with exit code {0}")]
pub struct CommandFailed(i64);

impl CommandFailed {
    pub fn exit_code(&self) -> ExitCode {
        match u8::try_from(self.0) {
            Ok(code) if code != 0 => ExitCode::from(code),
            _ => ExitCode::FAILURE,
        }
    }
}

/// Which streams are wanted, and of what.
pub struct Wanted<'a> {
    pub what: &'a str,
    pub container: Option<&'a str>,
    pub stdin: bool,
    pub tty: bool,
}

/// Connects to a subresource of a pod and stays until it ends.
pub async fn run(
    session: &Session,
    subresource: &str,
    wanted: &Wanted<'_>,
    command: &[String],
) -> anyhow::Result<()> {
    let args = LogsArgs {
        what: Some(wanted.what.to_string()),
        container: wanted.container.map(str::to_string),
        ..LogsArgs::default()
    };
    let (pod, container) = logs::first(session, &args).await?;
    let mut tty = wanted.tty;
    if tty && !(wanted.stdin && std::io::stdin().is_terminal()) {
        printer::note("no terminal is used: this program's input is none, or -i is missing");
        tty = false;
    }
    let target = Target { pod: &pod, container: &container, stdin: wanted.stdin, tty };
    let (socket, protocol) = open(session, subresource, &target, command).await?;
    let terminal = if tty { Some(Raw::enter()?) } else { None };
    let (mut writer, mut reader) = socket.split();
    let input = async {
        if !wanted.stdin {
            return std::future::pending::<anyhow::Result<()>>().await;
        }
        let mut stdin = tokio::io::stdin();
        let mut buffer = vec![0; INPUT_BYTES];
        loop {
            let read = stdin.read(&mut buffer).await?;
            let message = match read {
                0 => end_of_input(&protocol),
                read => message(frames::STDIN, &buffer[..read]),
            };
            writer.send(message).await?;
            if read == 0 {
                return std::future::pending().await;
            }
        }
    };
    let output = async {
        while let Some(message) = reader.next().await {
            let mut bytes = match message.context("the connection was lost")? {
                Message::Binary(bytes) => bytes,
                Message::Text(text) => Bytes::from(text),
                Message::Close(_) => break,
                _ => continue,
            };
            if bytes.is_empty() {
                continue;
            }
            match bytes.split_to(1)[0] {
                frames::STDOUT => printer::raw(&bytes)?,
                frames::STDERR => printer::raw_note(&bytes)?,
                frames::ERROR => return outcome(&bytes),
                _ => {}
            }
        }
        bail!("the connection ended before the command did")
    };
    let result = tokio::select! {
        result = output => result,
        result = input => result,
    };
    drop(terminal);
    result
}

/// A container, and which of its streams are wanted beside its output.
pub struct Target<'a> {
    pub pod: &'a str,
    pub container: &'a str,
    pub stdin: bool,
    pub tty: bool,
}

/// Opens the streams; the protocol that was settled tells whether the input can end alone.
pub async fn open(
    session: &Session,
    subresource: &str,
    target: &Target<'_>,
    command: &[String],
) -> anyhow::Result<(Socket, String)> {
    let Target { pod, container, stdin, tty } = *target;
    let mut query = Query::default();
    query.add("container", container);
    let flags = [("stdin", stdin), ("stdout", true), ("stderr", !tty), ("tty", tty)];
    for (name, on) in flags {
        query.add(name, if on { "true" } else { "" });
    }
    let mut path =
        query.on(&format!("/api/v1/namespaces/{}/pods/{pod}/{subresource}", session.namespace));
    for word in command {
        // An empty word is a word.
        let mut one = Query::default();
        one.add("command", word);
        let pair = one.on("").replacen('?', "&", 1);
        path.push_str(if pair.is_empty() { "&command=" } else { &pair });
    }
    Ok(session.remote.websocket(&path, PROTOCOLS).await?)
}

/// The end of the input.
pub fn end_of_input(protocol: &str) -> Message {
    match protocol.starts_with("v5") {
        true => message(frames::CLOSE, &[frames::STDIN]),
        // The fourth has no end of the input but that of the connection.
        false => Message::Close(None),
    }
}

pub fn message(channel: u8, bytes: &[u8]) -> Message {
    let mut out = BytesMut::with_capacity(1 + bytes.len());
    out.put_u8(channel);
    out.put_slice(bytes);
    Message::Binary(out.freeze())
}

/// What the Status at the end says.
pub fn outcome(status: &[u8]) -> anyhow::Result<()> {
    let status: Value = serde_json::from_slice(status).context("the outcome is no JSON")?;
    if status["status"] == "Success" {
        return Ok(());
    }
    let causes = status.pointer("/details/causes").and_then(Value::as_array);
    let code = causes.into_iter().flatten().find(|cause| cause["reason"] == "ExitCode");
    if let Some(code) = code.and_then(|cause| cause["message"].as_str()?.parse().ok()) {
        return Err(CommandFailed(code).into());
    }
    bail!("{}", status["message"].as_str().unwrap_or("the command failed"))
}

/// This program's terminal without line editing, until it is dropped: keys go to the other end.
struct Raw(String);

impl Raw {
    fn enter() -> anyhow::Result<Raw> {
        let before = stty(&["-g"])?;
        stty(&["raw", "-echo"])?;
        Ok(Raw(before.trim().to_string()))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Nothing more can be done about a terminal that takes no settings.
        let _ = stty(&[&self.0]);
    }
}

fn stty(words: &[&str]) -> anyhow::Result<String> {
    let output = Command::new("stty").args(words).stdin(Stdio::inherit()).output();
    let output = output.context("the program `stty` is needed for a terminal")?;
    if !output.status.success() {
        bail!("stty: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_become_exit_codes() {
        assert!(outcome(br#"{"status":"Success"}"#).is_ok());
        let failed = br#"{"status":"Failure","reason":"NonZeroExitCode",
            "details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#;
        let error = outcome(failed).unwrap_err();
        assert_eq!(error.downcast_ref::<CommandFailed>(), Some(&CommandFailed(3)));
        let broken = br#"{"status":"Failure","message":"the node went away"}"#;
        assert_eq!(outcome(broken).unwrap_err().to_string(), "the node went away");
    }
}
