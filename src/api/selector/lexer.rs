//! The text syntax of label selectors: a lexer and a parser of one token's lookahead.

use super::{MAX_TERMS, Operator, Requirement, SelectorError};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    /// Commas, parentheses and operators made of signs.
    Sign(&'a str),
    End,
}

impl<'a> Token<'a> {
    fn text(self) -> &'a str {
        match self {
            Token::Word(text) | Token::Sign(text) => text,
            Token::End => "",
        }
    }
}

struct Lexer<'a> {
    rest: &'a str,
}

impl<'a> Lexer<'a> {
    fn next(&mut self) -> Token<'a> {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
        let sign_bytes = match self.rest.as_bytes() {
            [] => return Token::End,
            [b'=', b'=', ..] | [b'!', b'=', ..] => 2,
            [first, ..] if is_sign(char::from(*first)) => 1,
            _ => 0,
        };
        if sign_bytes > 0 {
            return Token::Sign(self.take(sign_bytes));
        }
        let is_end = |c: char| is_sign(c) || matches!(c, ' ' | '\t' | '\r' | '\n');
        let end = self.rest.find(is_end).unwrap_or(self.rest.len());
        Token::Word(self.take(end))
    }

    fn peek(&self) -> Token<'a> {
        Lexer { rest: self.rest }.next()
    }

    fn take(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(bytes);
        self.rest = rest;
        taken
    }
}

fn is_sign(c: char) -> bool {
    matches!(c, '=' | '!' | '(' | ')' | ',' | '<' | '>')
}

fn unexpected<T>(token: Token<'_>, expected: &'static str) -> Result<T, SelectorError> {
    Err(SelectorError::Syntax { found: token.text().to_owned(), expected })
}

pub(super) fn parse(text: &str) -> Result<Vec<Requirement>, SelectorError> {
    let mut lexer = Lexer { rest: text };
    let mut requirements = Vec::new();
    if lexer.peek() == Token::End {
        return Ok(requirements);
    }
    loop {
        if requirements.len() >= MAX_TERMS {
            return Err(SelectorError::TooManyTerms);
        }
        requirements.push(requirement(&mut lexer)?);
        match lexer.next() {
            Token::End => return Ok(requirements),
            Token::Sign(",") => {}
            other => return unexpected(other, "',' or 'end of string'"),
        }
        match lexer.peek() {
            Token::Word(_) | Token::Sign("!") => {}
            other => return unexpected(other, "identifier after ','"),
        }
    }
}

fn requirement(lexer: &mut Lexer<'_>) -> Result<Requirement, SelectorError> {
    let first = lexer.next();
    if first == Token::Sign("!") {
        return match lexer.next() {
            Token::Word(key) => Requirement::new(key.to_owned(), Operator::DoesNotExist, vec![]),
            other => unexpected(other, "identifier"),
        };
    }
    let Token::Word(key) = first else {
        return unexpected(first, "!, identifier, or 'end of string'");
    };
    if matches!(lexer.peek(), Token::End | Token::Sign(",")) {
        return Requirement::new(key.to_owned(), Operator::Exists, vec![]);
    }
    let (operator, values) = match lexer.next() {
        Token::Word("in") => (Operator::In, value_set(lexer)?),
        Token::Word("notin") => (Operator::NotIn, value_set(lexer)?),
        Token::Sign("=" | "==") => (Operator::Equals, vec![one_value(lexer)?]),
        Token::Sign("!=") => (Operator::NotEquals, vec![one_value(lexer)?]),
        Token::Sign(">") => (Operator::GreaterThan, vec![one_value(lexer)?]),
        Token::Sign("<") => (Operator::LessThan, vec![one_value(lexer)?]),
        other => return unexpected(other, "in, notin, =, ==, !=, gt, lt"),
    };
    Requirement::new(key.to_owned(), operator, values)
}

/// A single value; nothing at all means the empty value, as in `key=` and `key=,other`.
fn one_value(lexer: &mut Lexer<'_>) -> Result<String, SelectorError> {
    match lexer.peek() {
        Token::End | Token::Sign(",") => Ok(String::new()),
        Token::Word(value) => {
            lexer.next();
            Ok(value.to_owned())
        }
        other => unexpected(other, "identifier"),
    }
}

/// `(a,b,)`: values between commas may be empty.
fn value_set(lexer: &mut Lexer<'_>) -> Result<Vec<String>, SelectorError> {
    let open = lexer.next();
    if open != Token::Sign("(") {
        return unexpected(open, "'('");
    }
    let mut values = Vec::new();
    loop {
        if values.len() >= MAX_TERMS {
            return Err(SelectorError::TooManyTerms);
        }
        match lexer.next() {
            Token::Word(value) => {
                values.push(value.to_owned());
                match lexer.next() {
                    Token::Sign(",") => {}
                    Token::Sign(")") => return Ok(values),
                    other => return unexpected(other, "',' or ')'"),
                }
            }
            Token::Sign(",") => values.push(String::new()),
            Token::Sign(")") => {
                values.push(String::new());
                return Ok(values);
            }
            other => return unexpected(other, "',', ')' or identifier"),
        }
    }
}
