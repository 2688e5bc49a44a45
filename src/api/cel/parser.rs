//! From tokens to the tree, by recursive descent with a bounded depth.

use std::sync::Arc;

use super::ast::{Call, Element, Entry, Expr, Field, Kind, MAX_DEPTH};
use super::lexer::{Issue, Kind as Token, Token as Placed, tokens};
use super::macros;
use super::value::Value;

/// The longest expression, in bytes (cel-go's limit, there in code points).
pub const MAX_BYTES: usize = 100_000;

/// Names that no variable or function may have.
const RESERVED: &[&str] = &[
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// Operators by how strongly they bind: relations, sums, products.
const LEVELS: &[&[(&str, &str)]] = &[
    &[
        ("==", "_==_"),
        ("!=", "_!=_"),
        ("<", "_<_"),
        ("<=", "_<=_"),
        (">", "_>_"),
        (">=", "_>=_"),
        ("in", "@in"),
    ],
    &[("+", "_+_"), ("-", "_-_")],
    &[("*", "_*_"), ("/", "_/_"), ("%", "_%_")],
];

pub fn parse(text: &str) -> Result<Expr, Issue> {
    if text.len() > MAX_BYTES {
        let why = format!("expression is too long: {} bytes, the limit is {MAX_BYTES}", text.len());
        return Err(Issue::new(0, why));
    }
    let mut parser = Parser { tokens: tokens(text)?, at: 0, depth: 0 };
    let expr = parser.expr()?;
    match parser.peek() {
        Token::End => Ok(expr),
        _ => Err(parser.unexpected("an operator or the end")),
    }
}

pub(super) struct Parser {
    tokens: Vec<Placed>,
    at: usize,
    /// How deep the parser itself is.
    depth: u16,
}

fn too_deep(offset: usize) -> Issue {
    Issue::new(offset, format!("expression recursion limit exceeded: {MAX_DEPTH}"))
}

/// A node around parts that were measured before they were moved in.
pub(super) fn above(offset: usize, depth: u16, kind: Kind) -> Result<Expr, Issue> {
    if depth >= MAX_DEPTH {
        return Err(too_deep(offset));
    }
    Ok(Expr { offset, depth: depth + 1, kind })
}

pub(super) fn deepest<'a>(parts: impl IntoIterator<Item = &'a Expr>) -> u16 {
    parts.into_iter().map(|part| part.depth).max().unwrap_or(0)
}

impl Parser {
    fn peek(&self) -> &Token {
        &self.tokens[self.at.min(self.tokens.len() - 1)].kind
    }

    fn offset(&self) -> usize {
        self.tokens[self.at.min(self.tokens.len() - 1)].offset
    }

    fn next(&mut self) -> Token {
        let token = self.peek().clone();
        self.at += 1;
        token
    }

    fn is(&self, op: &str) -> bool {
        matches!(self.peek(), Token::Op(found) if *found == op)
    }

    fn eat(&mut self, op: &str) -> bool {
        let found = self.is(op);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, op: &str) -> Result<(), Issue> {
        if self.eat(op) { Ok(()) } else { Err(self.unexpected(&format!("'{op}'"))) }
    }

    fn unexpected(&self, wanted: &str) -> Issue {
        let found = match self.peek() {
            Token::End => "<EOF>".to_string(),
            Token::Op(op) => op.to_string(),
            Token::Ident(name) => name.to_string(),
            Token::Int(n) | Token::Uint(n) => n.to_string(),
            Token::Double(n) => n.to_string(),
            Token::String(text) => format!("{text:?}"),
            Token::Bytes(_) => "bytes".to_string(),
        };
        let text = format!("Syntax error: mismatched input '{found}' expecting {wanted}");
        Issue::new(self.offset(), text)
    }

    /// One level deeper, for as long as `parse` takes.
    fn deeper<T>(
        &mut self,
        parse: impl FnOnce(&mut Parser) -> Result<T, Issue>,
    ) -> Result<T, Issue> {
        if self.depth >= MAX_DEPTH {
            return Err(too_deep(self.offset()));
        }
        self.depth += 1;
        let result = parse(self);
        self.depth -= 1;
        result
    }

    fn expr(&mut self) -> Result<Expr, Issue> {
        self.deeper(|parser| {
            let condition = parser.logic("||")?;
            let offset = parser.offset();
            if !parser.eat("?") {
                return Ok(condition);
            }
            let yes = parser.logic("||")?;
            parser.expect(":")?;
            let no = parser.expr()?;
            let depth = deepest([&condition, &yes, &no]);
            above(offset, depth, Kind::Choice(Box::new([condition, yes, no])))
        })
    }

    fn logic(&mut self, op: &'static str) -> Result<Expr, Issue> {
        let operand = |parser: &mut Parser| match op {
            "||" => parser.logic("&&"),
            _ => parser.binary(0),
        };
        let first = operand(self)?;
        let offset = self.offset();
        if !self.is(op) {
            return Ok(first);
        }
        let mut terms = vec![first];
        while self.eat(op) {
            terms.push(operand(self)?);
        }
        above(offset, deepest(&terms), Kind::Logic { all: op == "&&", terms })
    }

    fn binary(&mut self, level: usize) -> Result<Expr, Issue> {
        let Some(operators) = LEVELS.get(level) else { return self.unary() };
        let mut left = self.binary(level + 1)?;
        loop {
            let offset = self.offset();
            let found = match self.peek() {
                Token::Op(op) => *op,
                Token::Ident(word) if &**word == "in" => "in",
                _ => return Ok(left),
            };
            let Some((_, name)) = operators.iter().find(|(op, _)| *op == found) else {
                return Ok(left);
            };
            self.at += 1;
            let right = self.binary(level + 1)?;
            left = call(offset, name, vec![left, right])?;
        }
    }

    fn unary(&mut self) -> Result<Expr, Issue> {
        let offset = self.offset();
        if self.eat("!") {
            let operand = self.deeper(Parser::unary)?;
            return call(offset, "!_", vec![operand]);
        }
        if self.eat("-") {
            let number = match self.peek() {
                Token::Int(n) if *n <= 1 << 63 => Some(Value::Int((*n as i64).wrapping_neg())),
                Token::Double(n) => Some(Value::Double(-n)),
                _ => None,
            };
            if let Some(number) = number {
                self.at += 1;
                let literal = above(offset, 0, Kind::Literal(number))?;
                return self.members(literal);
            }
            let operand = self.deeper(Parser::unary)?;
            return call(offset, "-_", vec![operand]);
        }
        let primary = self.primary()?;
        self.members(primary)
    }

    /// What may follow an operand: fields, calls, indices, the fields of an object.
    fn members(&mut self, mut operand: Expr) -> Result<Expr, Issue> {
        loop {
            let offset = self.offset();
            if self.eat(".") {
                let optional = self.eat("?");
                let field = self.name(true)?;
                if !optional && self.eat("(") {
                    let args = self.args(")")?;
                    operand = macros::member(offset, operand, field, args)?;
                } else {
                    let depth = operand.depth;
                    let operand_ = Box::new(operand);
                    let kind = Kind::Select { operand: operand_, field, optional };
                    operand = above(offset, depth, kind)?;
                }
            } else if self.eat("[") {
                let optional = self.eat("?");
                let index = self.expr()?;
                self.expect("]")?;
                let depth = deepest([&operand, &index]);
                let (operand_, index) = (Box::new(operand), Box::new(index));
                operand = above(offset, depth, Kind::Index { operand: operand_, index, optional })?;
            } else if self.is("{") {
                let Some(name) = operand.path() else { return Ok(operand) };
                self.at += 1;
                let fields = self.fields()?;
                let depth = deepest(fields.iter().map(|field| &field.value));
                let name = name.into();
                operand = above(operand.offset, depth, Kind::Object { name, fields })?;
            } else {
                return Ok(operand);
            }
        }
    }

    fn primary(&mut self) -> Result<Expr, Issue> {
        let offset = self.offset();
        let literal = |value| above(offset, 0, Kind::Literal(value));
        match self.next() {
            Token::Int(n) => match i64::try_from(n) {
                Ok(n) => literal(Value::Int(n)),
                Err(_) => Err(Issue::new(offset, "Syntax error: invalid int literal")),
            },
            Token::Uint(n) => literal(Value::Uint(n)),
            Token::Double(n) => literal(Value::Double(n)),
            Token::String(text) => literal(Value::String(text)),
            Token::Bytes(bytes) => literal(Value::Bytes(bytes)),
            Token::Op("(") => {
                let inner = self.expr()?;
                self.expect(")")?;
                Ok(inner)
            }
            Token::Op("[") => self.list(offset),
            Token::Op("{") => self.map(offset),
            // A leading dot asks for the outermost scope, and there is only one.
            Token::Op(".") => self.primary_name(offset),
            Token::Ident(_) => {
                self.at -= 1;
                self.primary_name(offset)
            }
            _ => {
                self.at -= 1;
                Err(self.unexpected("an expression"))
            }
        }
    }

    fn primary_name(&mut self, offset: usize) -> Result<Expr, Issue> {
        let literal = |value| above(offset, 0, Kind::Literal(value));
        let name = self.name(false)?;
        match &*name {
            "true" => literal(Value::Bool(true)),
            "false" => literal(Value::Bool(false)),
            "null" => literal(Value::Null),
            _ if self.eat("(") => {
                let args = self.args(")")?;
                macros::global(offset, name, args)
            }
            _ => above(offset, 0, Kind::Ident(name)),
        }
    }

    /// A name. As a field, all names are good but the words of the grammar itself.
    fn name(&mut self, is_field: bool) -> Result<Arc<str>, Issue> {
        let offset = self.offset();
        let Token::Ident(name) = self.peek().clone() else {
            return Err(self.unexpected("IDENTIFIER"));
        };
        let is_word = matches!(&*name, "true" | "false" | "null");
        if &*name == "in" || is_field && is_word {
            return Err(self.unexpected("IDENTIFIER"));
        }
        if !is_field && RESERVED.contains(&&*name) {
            return Err(Issue::new(offset, format!("reserved identifier: {name}")));
        }
        self.at += 1;
        Ok(name)
    }

    /// Expressions with commas between them, up to `end`.
    fn args(&mut self, end: &str) -> Result<Vec<Expr>, Issue> {
        let mut args = Vec::new();
        while !self.eat(end) {
            args.push(self.expr()?);
            self.comma(end)?;
        }
        Ok(args)
    }

    /// A comma, unless the end follows.
    fn comma(&mut self, end: &str) -> Result<(), Issue> {
        if self.is(end) { Ok(()) } else { self.expect(",") }
    }

    fn list(&mut self, offset: usize) -> Result<Expr, Issue> {
        let mut items = Vec::new();
        while !self.eat("]") {
            let optional = self.eat("?");
            items.push(Element { value: self.expr()?, optional });
            self.comma("]")?;
        }
        let depth = deepest(items.iter().map(|item| &item.value));
        above(offset, depth, Kind::List(items))
    }

    fn map(&mut self, offset: usize) -> Result<Expr, Issue> {
        let mut entries = Vec::new();
        while !self.eat("}") {
            let optional = self.eat("?");
            let key = self.expr()?;
            self.expect(":")?;
            entries.push(Entry { key, value: self.expr()?, optional });
            self.comma("}")?;
        }
        let depth = deepest(entries.iter().flat_map(|entry| [&entry.key, &entry.value]));
        above(offset, depth, Kind::Map(entries))
    }

    fn fields(&mut self) -> Result<Vec<Field>, Issue> {
        let mut fields = Vec::new();
        while !self.eat("}") {
            let offset = self.offset();
            let optional = self.eat("?");
            let name = self.name(true)?;
            self.expect(":")?;
            fields.push(Field { offset, name, value: self.expr()?, optional });
            self.comma("}")?;
        }
        Ok(fields)
    }
}

pub(super) fn call(offset: usize, name: &str, args: Vec<Expr>) -> Result<Expr, Issue> {
    let depth = deepest(&args);
    let call = Call { name: name.into(), member: false, args, overloads: Vec::new() };
    above(offset, depth, Kind::Call(Box::new(call)))
}
