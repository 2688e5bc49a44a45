//! From text to tokens (cel-spec/doc/langdef.md, "Syntax").

use std::sync::Arc;

/// One token with the offset of its first byte.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    pub offset: usize,
    pub kind: Kind,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    Ident(Arc<str>),
    /// The magnitude; a minus sign is a token of its own.
    Int(u64),
    Uint(u64),
    Double(f64),
    String(Arc<str>),
    Bytes(Arc<[u8]>),
    /// An operator, a bracket, or a separator.
    Op(&'static str),
    End,
}

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    pub offset: usize,
    pub text: String,
}

impl Issue {
    pub fn new(offset: usize, text: impl Into<String>) -> Issue {
        Issue { offset, text: text.into() }
    }
}

/// Longer ones first.
const OPERATORS: &[&str] = &[
    "==", "!=", "<=", ">=", "&&", "||", "<", ">", "!", "+", "-", "*", "/", "%", ".", ",", "(", ")",
    "[", "]", "{", "}", "?", ":",
];

/// All tokens, the last of which is [`Kind::End`].
pub fn tokens(text: &str) -> Result<Vec<Token>, Issue> {
    let mut lexer = Lexer { text, at: 0 };
    let mut tokens = Vec::new();
    loop {
        lexer.skip_blank();
        let offset = lexer.at;
        let kind = lexer.next()?;
        let ended = kind == Kind::End;
        tokens.push(Token { offset, kind });
        if ended {
            return Ok(tokens);
        }
    }
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
}

impl Lexer<'_> {
    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn skip_blank(&mut self) {
        loop {
            let rest = self.rest();
            let blank = rest.len() - rest.trim_start_matches([' ', '\t', '\n', '\r', '\x0c']).len();
            if blank > 0 {
                self.at += blank;
            } else if rest.starts_with("//") {
                self.at += rest.find('\n').unwrap_or(rest.len());
            } else {
                return;
            }
        }
    }

    fn next(&mut self) -> Result<Kind, Issue> {
        let Some(first) = self.peek() else { return Ok(Kind::End) };
        if let Some((raw, bytes, prefix)) = self.string_prefix() {
            self.at += prefix;
            return self.string(raw, bytes);
        }
        let dotted = first == '.' && self.rest()[1..].starts_with(|c: char| c.is_ascii_digit());
        if first.is_ascii_digit() || dotted {
            return self.number();
        }
        if first.is_ascii_alphabetic() || first == '_' {
            let rest = self.rest();
            let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let length = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
            let word = Arc::from(&rest[..length]);
            self.at += length;
            return Ok(Kind::Ident(word));
        }
        match OPERATORS.iter().find(|op| self.rest().starts_with(**op)) {
            Some(op) => {
                self.at += op.len();
                Ok(Kind::Op(op))
            }
            None => {
                let text = format!("Syntax error: token recognition error at: '{first}'");
                Err(Issue::new(self.at, text))
            }
        }
    }

    /// `r`, `b` and both before a quote: whether raw, whether bytes, and how long the prefix is.
    fn string_prefix(&self) -> Option<(bool, bool, usize)> {
        let (mut raw, mut bytes) = (false, false);
        for (length, c) in self.rest().chars().take(3).enumerate() {
            match c {
                'r' | 'R' if !raw => raw = true,
                'b' | 'B' if !bytes => bytes = true,
                '"' | '\'' => return Some((raw, bytes, length)),
                _ => return None,
            }
        }
        None
    }

    fn string(&mut self, raw: bool, bytes: bool) -> Result<Kind, Issue> {
        let start = self.at;
        let quotes = ["\"\"\"", "'''", "\"", "'"];
        let quote = quotes.into_iter().find(|quote| self.rest().starts_with(quote));
        let quote = quote.unwrap_or("'");
        self.at += quote.len();
        let mut out: Vec<u8> = Vec::new();
        loop {
            if self.rest().starts_with(quote) {
                self.at += quote.len();
                break;
            }
            let ended = || Issue::new(start, "Syntax error: unterminated string");
            let c = self.peek().ok_or_else(ended)?;
            self.at += c.len_utf8();
            match c {
                '\n' | '\r' if quote.len() == 1 => return Err(ended()),
                '\\' if raw => {
                    // What follows is taken as it is, also a quote.
                    let c = self.peek().ok_or_else(ended)?;
                    self.at += c.len_utf8();
                    out.push(b'\\');
                    push(&mut out, c);
                }
                '\\' => self.escape(&mut out, bytes)?,
                c => push(&mut out, c),
            }
        }
        if bytes {
            return Ok(Kind::Bytes(out.into()));
        }
        match String::from_utf8(out) {
            Ok(text) => Ok(Kind::String(text.into())),
            Err(_) => Err(Issue::new(start, "Syntax error: a string must be valid UTF-8")),
        }
    }

    /// What follows a backslash.
    fn escape(&mut self, out: &mut Vec<u8>, bytes: bool) -> Result<(), Issue> {
        let at = self.at - 1;
        let bad = || Issue::new(at, "Syntax error: invalid escape sequence");
        let c = self.peek().ok_or_else(bad)?;
        self.at += c.len_utf8();
        let (digits, radix) = match c {
            'a' => return plain(out, 7),
            'b' => return plain(out, 8),
            'f' => return plain(out, 12),
            'n' => return plain(out, b'\n'),
            'r' => return plain(out, b'\r'),
            't' => return plain(out, b'\t'),
            'v' => return plain(out, 11),
            '\\' | '?' | '"' | '\'' | '`' => {
                push(out, c);
                return Ok(());
            }
            'x' | 'X' => (2, 16),
            'u' if !bytes => (4, 16),
            'U' if !bytes => (8, 16),
            '0'..='3' => {
                self.at -= 1;
                (3, 8)
            }
            _ => return Err(bad()),
        };
        let digits = self.text.get(self.at..self.at + digits).ok_or_else(bad)?;
        if !digits.chars().all(|c| c.is_digit(radix)) {
            return Err(bad());
        }
        let code = u32::from_str_radix(digits, radix).map_err(|_| bad())?;
        self.at += digits.len();
        match (bytes, u8::try_from(code)) {
            (true, Ok(byte)) => out.push(byte),
            _ => push(out, char::from_u32(code).ok_or_else(bad)?),
        }
        Ok(())
    }

    fn number(&mut self) -> Result<Kind, Issue> {
        let start = self.at;
        let rest = self.rest();
        let bad = || Issue::new(start, "Syntax error: invalid number");
        if let Some(hex) = rest.strip_prefix("0x").or_else(|| rest.strip_prefix("0X")) {
            let length = hex.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(hex.len());
            let value = u64::from_str_radix(&hex[..length], 16).map_err(|_| bad())?;
            self.at += 2 + length;
            return Ok(self.unsigned(value));
        }
        let digits = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let mut length = digits(rest);
        let mut whole = true;
        if rest[length..].starts_with('.') {
            let fraction = digits(&rest[length + 1..]);
            if fraction > 0 {
                whole = false;
                length += 1 + fraction;
            }
        }
        if rest[length..].starts_with(['e', 'E']) {
            let sign = usize::from(rest[length + 1..].starts_with(['+', '-']));
            let exponent = digits(&rest[length + 1 + sign..]);
            if exponent > 0 {
                whole = false;
                length += 1 + sign + exponent;
            }
        }
        let text = &rest[..length];
        let kind = match whole {
            true => Err(text.parse::<u64>().map_err(|_| bad())?),
            false => Ok(Kind::Double(text.parse().map_err(|_| bad())?)),
        };
        self.at += length;
        Ok(kind.unwrap_or_else(|value| self.unsigned(value)))
    }

    /// With a `u` behind it or not.
    fn unsigned(&mut self, value: u64) -> Kind {
        if self.rest().starts_with(['u', 'U']) {
            self.at += 1;
            return Kind::Uint(value);
        }
        Kind::Int(value)
    }
}

fn plain(out: &mut Vec<u8>, byte: u8) -> Result<(), Issue> {
    out.push(byte);
    Ok(())
}

fn push(out: &mut Vec<u8>, c: char) {
    out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}
