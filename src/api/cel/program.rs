//! An expression that was compiled.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use super::ast::Expr;
use super::check;
use super::cost::{Budget, Meter};
use super::env::Env;
use super::estimate::estimate;
use super::eval::{Error, Evaluation, Variables};
use super::lexer::Issue;
use super::lib::authz::Authorizer;
use super::parser::parse;
use super::schema::Shape;
use super::types::Type;
use super::value::Value;

/// Most mistakes that are told of one expression.
const MAX_ISSUES: usize = 10;

#[derive(Clone, Debug)]
pub struct Program {
    source: String,
    root: Expr,
    output: Type,
    names: BTreeSet<String>,
}

/// Why a text is no expression of the wanted type; the texts are cel-go's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CompileError {
    Issues(String),
    /// The names of the types that it may have.
    Output(Vec<String>),
}

impl Program {
    /// # Errors
    /// What is wrong with the text, with its place in it.
    pub fn compile(source: &str, env: &Env) -> Result<Program, CompileError> {
        let told = |issues: Vec<Issue>| CompileError::Issues(tell(source, issues));
        let mut root = parse(source).map_err(|issue| told(vec![issue]))?;
        let checked = check::check(&mut root, env);
        if !checked.issues.is_empty() {
            return Err(told(checked.issues));
        }
        let (output, names) = (checked.output, checked.names);
        Ok(Program { source: source.into(), root, output, names })
    }

    /// One whose result has a type of these; what is not known before it runs is refused.
    pub fn compile_as(source: &str, env: &Env, types: &[Type]) -> Result<Program, CompileError> {
        let program = Program::compile(source, env)?;
        let same = |wanted: &Type| wanted.to_string() == program.output.to_string();
        if !types.iter().any(|wanted| wanted.is_dyn() || same(wanted)) {
            return Err(CompileError::Output(types.iter().map(Type::to_string).collect()));
        }
        Ok(program)
    }

    pub fn source(&self) -> &str {
        &self.source
    }

    /// The type of the result.
    pub fn output(&self) -> &Type {
        &self.output
    }

    /// Whether the expression names a variable.
    pub fn uses(&self, variable: &str) -> bool {
        self.names.contains(variable)
    }

    /// What an evaluation may cost at most, where the variables have these shapes.
    pub fn estimate(&self, variables: &[(&str, Arc<Shape>)]) -> u64 {
        estimate(&self.root, variables)
    }

    /// Evaluates within a budget.
    ///
    /// # Errors
    /// What the expression itself failed at, or that it, or the budget, was too expensive.
    pub fn run(
        &self,
        variables: &dyn Variables,
        authorizer: Option<&dyn Authorizer>,
        budget: &mut Budget,
    ) -> Result<Value, Error> {
        budget.spend(|meter: &mut Meter| {
            Evaluation::new(variables, authorizer, meter).eval(&self.root)
        })
    }

    /// Evaluates as a part of another evaluation.
    pub fn run_in(&self, evaluation: &mut Evaluation<'_>) -> Result<Value, Error> {
        evaluation.apart(|evaluation| evaluation.eval(&self.root))
    }
}

/// `ERROR: <input>:1:6: text`, the line, and a mark under the place.
fn tell(source: &str, issues: Vec<Issue>) -> String {
    let one = |issue: Issue| {
        let before = source.get(..issue.offset).unwrap_or(source);
        let line_number = before.matches('\n').count() + 1;
        let start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = source[start..].lines().next().unwrap_or_default();
        let column = before[start..].chars().count();
        // A long line is shown around the place only.
        let skipped = column.saturating_sub(SHOWN / 2);
        let shown: String = line.chars().skip(skipped).take(SHOWN).collect();
        let mark = format!("{}^", ".".repeat(column - skipped));
        let text = issue.text;
        format!("ERROR: <input>:{line_number}:{}: {text}\n | {shown}\n | {mark}", column + 1)
    };
    issues.into_iter().take(MAX_ISSUES).map(one).collect::<Vec<_>>().join("\n")
}

/// Most characters of a line that are shown.
const SHOWN: usize = 200;

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CompileError::Issues(text) => write!(f, "compilation failed: {text}"),
            CompileError::Output(types) => match &types[..] {
                [one] => write!(f, "must evaluate to {one}"),
                many => write!(f, "must evaluate to one of [{}]", many.join(" ")),
            },
        }
    }
}
