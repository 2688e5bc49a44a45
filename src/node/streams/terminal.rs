//! A terminal's line discipline (termios' canonical mode). Clients with a terminal send every key as
//! it is, and WASI has nothing by which a guest could read keys: so lines are edited and shown here,
//! and a guest reads whole lines, as from any terminal.
//!
//! Pure: keys in; input, echo and signals out. The size of the window has no meaning here: WASI has
//! no interface that tells it.

use bytes::Bytes;

/// The longest line, in bytes (Linux' N_TTY_BUF_SIZE); further keys ring the bell.
const MAX_LINE_BYTES: usize = 4096;

const INTERRUPT: u8 = 0x03;
const END: u8 = 0x04;
const QUIT: u8 = 0x1c;
const BACKSPACE: u8 = 0x08;
const DELETE: u8 = 0x7f;
const ERASE_LINE: u8 = 0x15;
const ERASE_WORD: u8 = 0x17;
const BELL: u8 = 0x07;

/// The line that is being typed.
#[derive(Default)]
pub struct Terminal {
    line: Vec<u8>,
}

/// What keys came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Typed {
    /// For the guest.
    pub input: Vec<u8>,
    /// For the client.
    pub echo: Vec<u8>,
    /// The input ended (^D on an empty line).
    pub end: bool,
    /// The guest is to end (^C, ^\).
    pub interrupt: bool,
}

impl Terminal {
    pub fn typed(&mut self, keys: &[u8]) -> Typed {
        let mut typed = Typed::default();
        for key in keys {
            self.key(*key, &mut typed);
        }
        typed
    }

    fn key(&mut self, key: u8, typed: &mut Typed) {
        match key {
            b'\r' | b'\n' => {
                self.line.push(b'\n');
                typed.input.append(&mut self.line);
                typed.echo.extend_from_slice(b"\r\n");
            }
            BACKSPACE | DELETE => self.erase_one(typed),
            ERASE_LINE => {
                while !self.line.is_empty() {
                    self.erase_one(typed);
                }
            }
            ERASE_WORD => {
                while self.line.last().is_some_and(u8::is_ascii_whitespace) {
                    self.erase_one(typed);
                }
                while self.line.last().is_some_and(|last| !last.is_ascii_whitespace()) {
                    self.erase_one(typed);
                }
            }
            INTERRUPT | QUIT => {
                self.line.clear();
                typed.interrupt = true;
                typed.echo.extend_from_slice(&[b'^', key + 0x40, b'\r', b'\n']);
            }
            END if self.line.is_empty() => typed.end = true,
            END => typed.input.append(&mut self.line),
            _ if self.line.len() >= MAX_LINE_BYTES => typed.echo.push(BELL),
            key => {
                self.line.push(key);
                if key < 0x20 && key != b'\t' {
                    typed.echo.extend_from_slice(&[b'^', key + 0x40]);
                } else {
                    typed.echo.push(key);
                }
            }
        }
    }

    /// Takes back one character, which may be of several bytes.
    fn erase_one(&mut self, typed: &mut Typed) {
        let mut last = self.line.pop();
        while last.is_some_and(|byte| byte & 0xc0 == 0x80) && !self.line.is_empty() {
            last = self.line.pop();
        }
        let cells = match last {
            None => 0,
            Some(byte) if byte < 0x20 && byte != b'\t' => 2,
            Some(_) => 1,
        };
        (0..cells).for_each(|_| typed.echo.extend_from_slice(b"\x08 \x08"));
    }
}

/// Output as a terminal shows it: a line's end returns to the first column.
pub fn shown(bytes: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(bytes.len() + 16);
    let mut before = 0;
    for byte in bytes {
        if *byte == b'\n' && before != b'\r' {
            out.push(b'\r');
        }
        out.push(*byte);
        before = *byte;
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(keys: &str) -> (String, String) {
        let typed = Terminal::default().typed(keys.as_bytes());
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (text(typed.input), text(typed.echo))
    }

    #[test]
    fn lines_are_edited_before_a_guest_reads_them() {
        assert_eq!(all("ls\r"), ("ls\n".into(), "ls\r\n".into()));
        assert_eq!(all("lx\x7fs\r").0, "ls\n");
        assert_eq!(all("aä\x7f\r").0, "a\n");
        assert_eq!(all("one two\x17three\r").0, "one three\n");
        assert_eq!(all("wrong\x15right\n").0, "right\n");
        assert_eq!(all("\x7f\x7fa\r"), ("a\n".into(), "a\r\n".into()));
        assert_eq!(all("half").0, "", "a line is read when it ends");
        assert_eq!(all("half\x04").0, "half", "or when it is told to be");
    }

    #[test]
    fn keys_that_are_signals() {
        let mut terminal = Terminal::default();
        let typed = terminal.typed(b"abc\x03");
        assert!(typed.interrupt && typed.input.is_empty());
        assert_eq!(typed.echo, b"abc^C\r\n");
        assert!(terminal.typed(b"\x04").end);
        assert!(!terminal.typed(b"a\x04").end);
    }

    #[test]
    fn a_line_is_bounded() {
        let mut terminal = Terminal::default();
        let typed = terminal.typed(&vec![b'a'; MAX_LINE_BYTES + 2]);
        assert_eq!(typed.echo.iter().filter(|byte| **byte == BELL).count(), 2);
        assert_eq!(terminal.typed(b"\r").input.len(), MAX_LINE_BYTES + 1);
    }

    #[test]
    fn line_ends_return() {
        assert_eq!(shown(b"a\nb\r\nc"), "a\r\nb\r\nc");
    }
}
