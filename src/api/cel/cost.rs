//! What evaluations cost, in units after cel-go (common/cost.go, interpreter/runtimecost.go) and
//! k8s.io/apiserver/pkg/cel/library/cost.go. A unit is about a tenth of a microsecond.
//!
//! Where upstream counts an operation as one although its time grows with its arguments (joining
//! lists, comparing nested values), it costs what it takes here: the counter is what bounds time and
//! memory.

use super::eval::Error;

/// One evaluation of one expression (k8s.io/apiserver/pkg/apis/cel/config.go, as the next two).
pub const PER_CALL_LIMIT: u64 = 1_000_000;
/// All rules of one object, or all expressions of one policy's binding.
pub const OBJECT_BUDGET: u64 = 10_000_000;
/// All match conditions of one webhook or policy.
pub const MATCH_CONDITIONS_BUDGET: u64 = 2_500_000;

/// A name or a field.
pub const SELECT: u64 = 1;
pub const LIST: u64 = 10;
pub const MAP: u64 = 30;
pub const OBJECT: u64 = 40;
/// An authorization check.
pub const AUTHORIZE: u64 = 350_000;
/// A pattern that is not a literal is compiled when it is met.
pub const COMPILE_PATTERN: u64 = 5_000;
/// Bytes that are looked at for one unit.
const BYTES_PER_UNIT: u64 = 10;
/// Characters of a pattern that make a match dearer by one factor.
pub const PATTERN_CHARACTERS_PER_FACTOR: u64 = 4;

/// What several evaluations may cost together.
#[derive(Debug)]
pub struct Budget {
    left: u64,
}

/// Counts one evaluation.
#[derive(Debug)]
pub struct Meter {
    left: u64,
}

impl Budget {
    pub fn new(units: u64) -> Budget {
        Budget { left: units }
    }

    pub fn left(&self) -> u64 {
        self.left
    }

    /// Evaluates within what is left, and within the limit of one call.
    pub fn spend<T>(
        &mut self,
        evaluate: impl FnOnce(&mut Meter) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let limit = self.left.min(PER_CALL_LIMIT);
        let mut meter = Meter { left: limit };
        let result = evaluate(&mut meter);
        self.left -= limit - meter.left;
        match result {
            Err(Error::CallLimit) if limit < PER_CALL_LIMIT => {
                self.left = 0;
                Err(Error::Budget)
            }
            other => other,
        }
    }
}

impl Meter {
    pub fn new(units: u64) -> Meter {
        Meter { left: units }
    }

    pub fn charge(&mut self, units: u64) -> Result<(), Error> {
        match self.left.checked_sub(units) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => {
                self.left = 0;
                Err(Error::CallLimit)
            }
        }
    }

    /// For looking at so many bytes.
    pub fn traverse(&mut self, bytes: usize) -> Result<(), Error> {
        self.charge(text(bytes as u64))
    }
}

/// The cost of looking at so many bytes.
pub fn text(bytes: u64) -> u64 {
    bytes.div_ceil(BYTES_PER_UNIT)
}
