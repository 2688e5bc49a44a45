//! An error in words: what failed, and what caused it. The last cause is what helps.

use std::error::Error;

/// The text of an error with those of its causes; what a text says already is not said again.
pub fn told(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Failure {
        text: &'static str,
        source: Option<Box<Failure>>,
    }

    #[test]
    fn each_cause_is_told_once() {
        let refused = Failure { text: "connection refused", source: None };
        let connect = Failure { text: "tcp connect error", source: Some(Box::new(refused)) };
        let again = Failure { text: "connect error", source: Some(Box::new(connect)) };
        let request = Failure { text: "cannot send", source: Some(Box::new(again)) };
        assert_eq!(
            told(&request),
            "cannot send: connect error: tcp connect error: connection refused"
        );
    }
}
