//! The table of all functions and operators: signatures as text, what they cost, what they do.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::cost::{Meter, text};
use super::eval::{Error, Evaluation};
use super::lib;
use super::types::{Bound, Type};
use super::value::Value;

/// A row of a library.
pub struct Row {
    /// `(string).charAt(int) -> string`; a receiver stands in parentheses. Capital letters are
    /// parameters.
    pub signature: &'static str,
    pub cost: Cost,
    pub run: Native,
}

pub type Native = fn(&mut Evaluation<'_>, &[Value]) -> Result<Value, Error>;

/// What a call costs beside its arguments.
#[derive(Clone, Copy, Debug)]
pub enum Cost {
    One,
    /// Looking at all of the first argument.
    Text,
    /// Looking at it, and making something as large.
    TwiceText,
    /// The function charges.
    Own,
}

/// A row that was read.
pub struct Overload {
    pub params: Vec<Type>,
    pub result: Type,
    cost: Cost,
    run: Native,
}

impl std::fmt::Debug for Overload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} -> {}", self.params, self.result)
    }
}

pub const fn row(signature: &'static str, cost: Cost, run: Native) -> Row {
    Row { signature, cost, run }
}

/// `native!([Value::Int(n)] => …)`: a function of arguments that fit a pattern. With a name in
/// front, the evaluation is known by it.
macro_rules! native {
    ($run:ident, $pattern:pat => $body:expr) => {
        |$run, args| match args {
            $pattern => $body,
            _ => Err($crate::api::cel::eval::no_overload()),
        }
    };
    ($pattern:pat => $body:expr) => {
        |_, args| match args {
            $pattern => $body,
            _ => Err($crate::api::cel::eval::no_overload()),
        }
    };
}
pub(super) use native;

/// By name.
type Table = HashMap<&'static str, Vec<Overload>>;

/// Global functions, and member functions.
static TABLE: LazyLock<[Table; 2]> = LazyLock::new(|| {
    let mut table = [Table::new(), Table::new()];
    for row in lib::all() {
        let (name, member, overload) =
            read(&row).unwrap_or_else(|| panic!("{:?} is no signature", row.signature));
        table[usize::from(member)].entry(name).or_default().push(overload);
    }
    table
});

/// The functions of a name.
pub fn named(name: &str, member: bool) -> &'static [Overload] {
    TABLE[usize::from(member)].get(name).map(Vec::as_slice).unwrap_or_default()
}

impl Overload {
    /// The type of the result, if arguments of these types may fit.
    pub fn result_of(&self, args: &[Type]) -> Option<Type> {
        if args.len() != self.params.len() {
            return None;
        }
        let mut bound = Bound::default();
        let fit = args.iter().zip(&self.params).all(|(arg, wanted)| arg.fits(wanted, &mut bound));
        fit.then(|| self.result.resolve(&bound))
    }

    pub fn takes(&self, args: &[Value]) -> bool {
        args.len() == self.params.len()
            && args.iter().zip(&self.params).all(|(arg, wanted)| wanted.holds(arg))
    }

    pub fn call(&self, run: &mut Evaluation<'_>, args: &[Value]) -> Result<Value, Error> {
        let size = args.first().map_or(1, Value::size);
        self.cost.charge(size, run.meter)?;
        (self.run)(run, args)
    }
}

impl Cost {
    fn charge(self, size: u64, meter: &mut Meter) -> Result<(), Error> {
        match self {
            Cost::One => meter.charge(1),
            Cost::Text => meter.charge(text(size)),
            Cost::TwiceText => meter.charge(text(2 * size)),
            Cost::Own => Ok(()),
        }
    }
}

/// The name, whether it is a member, and the overload of a row.
fn read(row: &Row) -> Option<(&'static str, bool, Overload)> {
    let (left, result) = row.signature.split_once(" -> ")?;
    let mut params = Vec::new();
    let (receiver, rest) = match left.strip_prefix('(') {
        Some(rest) => {
            let (receiver, rest) = rest.split_once(").")?;
            (Some(receiver), rest)
        }
        None => (None, left),
    };
    if let Some(receiver) = receiver {
        params.push(read_type(receiver)?);
    }
    let (name, args) = rest.strip_suffix(')')?.split_once('(')?;
    for arg in split(args) {
        params.push(read_type(arg)?);
    }
    let overload = Overload { params, result: read_type(result)?, cost: row.cost, run: row.run };
    Some((name, receiver.is_some(), overload))
}

/// Splits at the commas that are in no angle brackets.
fn split(args: &'static str) -> Vec<&'static str> {
    let mut depth = 0;
    let parts = args.split(move |c| {
        match c {
            '<' => depth += 1,
            '>' => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 0
    });
    parts.map(str::trim).filter(|part| !part.is_empty()).collect()
}

fn read_type(text: &'static str) -> Option<Type> {
    if let Some((name, inner)) = text.split_once('<') {
        let inner = split(inner.strip_suffix('>')?);
        return Some(match (name, &inner[..]) {
            ("list", [item]) => Type::list(read_type(item)?),
            ("optional", [inner]) => Type::optional(read_type(inner)?),
            ("map", [key, value]) => Type::map(read_type(key)?, read_type(value)?),
            _ => return None,
        });
    }
    Some(match text {
        "dyn" => Type::Dyn,
        "null" => Type::Null,
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "number" => Type::Number,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "timestamp" => Type::Timestamp,
        "duration" => Type::Duration,
        "type" => Type::Type,
        _ => match text.as_bytes() {
            [letter] if letter.is_ascii_uppercase() => Type::Param(char::from(*letter)),
            _ if text.contains('.') => Type::Opaque(text),
            _ => return None,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signature_is_read() {
        assert!(TABLE[0].len() > 50 && TABLE[1].len() > 80);
        let size = named("size", true);
        assert!(size.iter().any(|o| o.takes(&[Value::string("x")])));
    }
}
