//! A program of ours that runs beside the test: its lines, its log, and its certain end. It is
//! stopped by its own process id, and by a watchdog should the test's process die first.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};

use super::{PATIENCE, until};

/// Of a log, so much of its end is shown with a failure.
const LOG_TAIL_BYTES: usize = 6 << 10;

/// Ends the program when the test's process is gone, however that ended: its stdin is a pipe that
/// only the test holds.
const WATCHDOG: &str = r#"cat >/dev/null; kill -9 "$0" 2>/dev/null; [ -z "$1" ] || rm -rf "$1""#;

pub struct Program {
    child: Child,
    watchdog: Child,
    _held: ChildStdin,
    lines: Mutex<Receiver<String>>,
    output: Arc<Mutex<String>>,
    log: Arc<Mutex<String>>,
    /// They end when the program has closed its streams.
    readers: Vec<JoinHandle<()>>,
}

impl Program {
    /// Starts a program. `dir` is removed should the test's process die before the program is
    /// dropped.
    pub fn start(program: &str, args: &[&str], dir: Option<&Path>) -> Program {
        Program::start_with(Path::new(program), args, dir, &[])
    }

    /// The same with variables in its environment.
    pub fn start_with(
        program: &Path,
        args: &[&str],
        dir: Option<&Path>,
        env: &[(&str, &str)],
    ) -> Program {
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env_remove("WASMFLEET_LOG").env_remove("WASMFLEET_DATA_DIR");
        if let Some(dir) = dir {
            // Defaults that depend on the user must not reach the user's own files.
            command.env("HOME", dir).env_remove("XDG_DATA_HOME").env_remove("KUBECONFIG");
        }
        command.envs(env.iter().copied());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{program:?}: {e}"));
        let mut watchdog = Command::new("sh")
            .args(["-c", WATCHDOG, &child.id().to_string()])
            .arg(dir.unwrap_or(Path::new("")))
            .stdin(Stdio::piped())
            .spawn()
            .expect("sh");
        let held = watchdog.stdin.take().expect("piped");
        let (output, log) = (Arc::<Mutex<String>>::default(), Arc::<Mutex<String>>::default());
        let (sender, lines) = channel();
        let out = keep(child.stdout.take().expect("piped"), output.clone(), Some(sender));
        let err = keep(child.stderr.take().expect("piped"), log.clone(), None);
        let (lines, readers) = (Mutex::new(lines), vec![out, err]);
        Program { child, watchdog, _held: held, lines, output, log, readers }
    }

    /// Waits for a line on stdout that begins so.
    pub fn wait_line(&self, beginning: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.lock().expect("not poisoned").recv_timeout(left) {
                Ok(line) if line.starts_with(beginning) => return line,
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => {
                    panic!("no line {beginning:?} after {PATIENCE:?}\n{}", self.told())
                }
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("ended without a line {beginning:?}\n{}", self.told())
                }
            }
        }
    }

    fn told(&self) -> String {
        format!("--- stdout\n{}\n--- stderr\n{}", self.stdout(), self.log())
    }

    pub fn stdout(&self) -> String {
        self.output.lock().expect("not poisoned").clone()
    }

    pub fn stderr(&self) -> String {
        self.log.lock().expect("not poisoned").clone()
    }

    /// The end of what the program wrote to stderr.
    pub fn log(&self) -> String {
        let log = self.stderr();
        let mut from = log.len().saturating_sub(LOG_TAIL_BYTES);
        while !log.is_char_boundary(from) {
            from += 1;
        }
        log[from..].to_string()
    }

    fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).expect("a process id");
        kill_process(Pid::from_raw(id).expect("not 0"), signal).expect("the process is ours");
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Asks the program to end.
    pub fn ask_to_end(&self) {
        self.signal(Signal::TERM);
    }

    /// The same, and waits until it has.
    pub fn terminate(&mut self) -> ExitStatus {
        self.ask_to_end();
        self.wait_end()
    }

    /// Ends the program with no chance to do anything.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.wait_end();
    }

    /// Waits for the end; afterwards all that it wrote is there.
    pub fn wait_end(&mut self) -> ExitStatus {
        let child = &mut self.child;
        let status = until("the program's end", || match child.try_wait() {
            Ok(Some(status)) => Ok(status),
            other => Err(format!("{other:?}")),
        });
        for reader in self.readers.drain(..) {
            reader.join().expect("a reader that ends");
        }
        status
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = self.watchdog.kill();
        let _ = self.watchdog.wait();
    }
}

/// Reads a stream to its end into a text, each line also to a channel.
fn keep(
    stream: impl Read + Send + 'static,
    text: Arc<Mutex<String>>,
    lines: Option<Sender<String>>,
) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            let mut text = text.lock().expect("not poisoned");
            text.push_str(&line);
            text.push('\n');
            drop(text);
            if let Some(lines) = &lines {
                let _ = lines.send(line);
            }
        }
    })
}
