//! What a verb over several objects tells: a line for each as it goes, or the objects at its end,
//! and all errors after what was done.

use serde_json::{Value, json};

use super::args::{DryRun, Outcome};
use super::printer::{self, Format};

/// Gathers results and errors of one command.
pub struct Report {
    format: Format,
    dry_run: DryRun,
    objects: Vec<Value>,
    failed: Vec<anyhow::Error>,
}

impl Report {
    pub fn new(output: Option<&str>, dry_run: DryRun) -> anyhow::Result<Report> {
        let format = Format::parse(output)?;
        Ok(Report { format, dry_run, objects: Vec::new(), failed: Vec::new() })
    }

    /// As a verb's arguments say.
    pub fn of(outcome: &Outcome) -> anyhow::Result<Report> {
        Report::new(outcome.output.as_deref(), outcome.dry_run())
    }

    /// `deployment.apps/web configured`, or the object for the end.
    pub fn done(&mut self, title: &str, what: &str, object: Value) -> anyhow::Result<()> {
        match self.format {
            Format::Table { .. } => {
                printer::line(&format!("{title} {what}{}", self.dry_run.suffix()))?;
            }
            Format::Name => printer::line(title)?,
            _ => self.objects.push(object),
        }
        Ok(())
    }

    pub fn fail(&mut self, error: impl Into<anyhow::Error>) {
        self.failed.push(error.into());
    }

    /// Prints the objects that were asked for; several are one List. Then the errors.
    pub fn finish(self) -> anyhow::Result<()> {
        match <[Value; 1]>::try_from(self.objects) {
            Ok([one]) => printer::object(&one, &self.format, "")?,
            Err(none) if none.is_empty() => {}
            Err(several) => printer::object(&list(several), &self.format, "")?,
        }
        errors(self.failed)
    }
}

/// Objects as a List.
pub fn list(items: Vec<Value>) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": items})
}

/// The last error is the command's; the others are told before it.
pub fn errors(mut failed: Vec<anyhow::Error>) -> anyhow::Result<()> {
    let Some(last) = failed.pop() else { return Ok(()) };
    for error in &failed {
        printer::note(&format!("error: {}", printer::error_text(error)));
    }
    Err(last)
}
