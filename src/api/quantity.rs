//! Kubernetes quantities: `250m`, `1536Mi`, `1e3`, `0.5`.
//!
//! Owns exact arithmetic and the canonical text, after k8s.io/apimachinery/pkg/api/resource. A
//! quantity is a whole number of nano units, so nothing is ever rounded but what is smaller than
//! one nano unit. Knows nothing of which resource is counted.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

const NANO_DIGITS: i32 = 9;
const NANO: i128 = 1_000_000_000;
/// Binary quantities are capped here, as upstream does.
const MAX_BINARY: i128 = i64::MAX as i128 * NANO;
/// Longest text that is looked at, in bytes; the largest sensible quantity needs 20 digits.
const MAX_TEXT_BYTES: usize = 128;

/// Why a text is no quantity. The wording is upstream's: it reaches users in 422 answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    #[error(
        "quantities must match the regular expression \
         '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    )]
    Format,
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// The family of suffixes a quantity was written with, and is printed with again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `n u m k M G T P E`.
    DecimalSi,
    /// `Ki Mi Gi Ti Pi Ei`.
    BinarySi,
    /// `e3`.
    DecimalExponent,
}

/// An exact amount. Comparison looks at the amount only, never at how it was written.
#[derive(Debug, Clone, Copy)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

impl Quantity {
    pub const ZERO: Quantity = Quantity { nanos: 0, format: Format::DecimalSi };

    /// A whole number in decimal notation, such as a count of pods.
    pub fn from_value(value: i64) -> Quantity {
        Quantity { nanos: i128::from(value) * NANO, format: Format::DecimalSi }
    }

    /// Thousandths in decimal notation, such as CPU time.
    pub fn from_milli(milli: i64) -> Quantity {
        Quantity { nanos: i128::from(milli) * (NANO / 1000), format: Format::DecimalSi }
    }

    /// A number of bytes, printed with binary suffixes.
    pub fn from_bytes(bytes: i64) -> Quantity {
        Quantity { nanos: i128::from(bytes) * NANO, format: Format::BinarySi }
    }

    /// Reads a quantity as the API server does: amounts below one nano unit are rounded up (away
    /// from zero), binary ones above 2^63-1 are capped, decimal ones beyond 10^29 are refused.
    pub fn parse(text: &str) -> Result<Quantity, QuantityError> {
        if text.is_empty() || text.len() > MAX_TEXT_BYTES {
            return Err(QuantityError::Format);
        }
        let parts = Parts::split(text)?;
        let (multiplier, exponent, format) = read_suffix(parts.suffix)?;
        let nanos = parts.nanos(multiplier, exponent, format)?;
        let below_one = nanos > -NANO && nanos < NANO && nanos != 0;
        let format =
            if format == Format::BinarySi && below_one { Format::DecimalSi } else { format };
        Ok(Quantity { nanos: if parts.negative { -nanos } else { nanos }, format })
    }

    pub fn format(&self) -> Format {
        self.format
    }

    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    /// -1, 0 or 1.
    pub fn sign(&self) -> i32 {
        self.nanos.signum() as i32
    }

    /// The amount in whole units, rounded up (away from zero); saturates at the ends of i64.
    pub fn value(&self) -> i64 {
        self.scaled(NANO)
    }

    /// The amount in thousandths, rounded up (away from zero); saturates at the ends of i64.
    pub fn milli(&self) -> i64 {
        self.scaled(NANO / 1000)
    }

    /// How many times `other` it is, as near as a float comes.
    pub fn ratio(&self, other: Quantity) -> f64 {
        self.nanos as f64 / other.nanos as f64
    }

    fn scaled(&self, unit: i128) -> i64 {
        let whole = self.nanos / unit;
        let rest = if self.nanos % unit == 0 { 0 } else { self.nanos.signum() };
        (whole + rest).clamp(i64::MIN.into(), i64::MAX.into()) as i64
    }

    fn combine(self, nanos: i128, other: Quantity) -> Quantity {
        let format = if self.is_zero() { other.format } else { self.format };
        Quantity { nanos, format }
    }

    fn decimal_text(&self, f: &mut fmt::Formatter<'_>, format: Format) -> fmt::Result {
        let (mut mantissa, mut exponent) = (self.nanos, -NANO_DIGITS);
        while mantissa % 1000 == 0 {
            mantissa /= 1000;
            exponent += 3;
        }
        match (format, decimal_suffix(exponent)) {
            (Format::DecimalSi, Some(suffix)) => write!(f, "{mantissa}{suffix}"),
            _ if exponent == 0 => write!(f, "{mantissa}"),
            _ => write!(f, "{mantissa}e{exponent}"),
        }
    }

    fn binary_text(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut mantissa = self.nanos / NANO;
        let mut step = 0;
        while mantissa % 1024 == 0 && step + 1 < BINARY_SUFFIXES.len() {
            mantissa /= 1024;
            step += 1;
        }
        write!(f, "{mantissa}{}", BINARY_SUFFIXES[step])
    }
}

impl std::ops::Add for Quantity {
    type Output = Quantity;
    /// The left side's format wins unless it is zero. Saturates at the ends of i128 nano units.
    fn add(self, other: Quantity) -> Quantity {
        self.combine(self.nanos.saturating_add(other.nanos), other)
    }
}

impl std::ops::Sub for Quantity {
    type Output = Quantity;
    fn sub(self, other: Quantity) -> Quantity {
        self.combine(self.nanos.saturating_sub(other.nanos), other)
    }
}

impl std::ops::AddAssign for Quantity {
    fn add_assign(&mut self, other: Quantity) {
        *self = *self + other;
    }
}

impl std::ops::SubAssign for Quantity {
    fn sub_assign(&mut self, other: Quantity) {
        *self = *self - other;
    }
}

impl std::iter::Sum for Quantity {
    fn sum<I: Iterator<Item = Quantity>>(iter: I) -> Quantity {
        iter.fold(Quantity::ZERO, |total, next| total + next)
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Quantity) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Quantity) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Quantity) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;
    fn from_str(text: &str) -> Result<Quantity, QuantityError> {
        Quantity::parse(text)
    }
}

impl fmt::Display for Quantity {
    /// Canonical form: no fraction, the largest suffix that loses nothing, in the quantity's
    /// family. A binary quantity that is small or has a fraction is printed in decimal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let small = self.nanos.abs() < 1024 * NANO;
        match self.format {
            Format::BinarySi if !small && self.nanos % NANO == 0 => self.binary_text(f),
            Format::BinarySi => self.decimal_text(f, Format::DecimalSi),
            format => self.decimal_text(f, format),
        }
    }
}

const BINARY_SUFFIXES: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
const DECIMAL_SUFFIXES: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];

fn decimal_suffix(exponent: i32) -> Option<&'static str> {
    let step = usize::try_from((exponent + NANO_DIGITS) / 3).ok()?;
    DECIMAL_SUFFIXES.get(step).copied()
}

/// What a suffix means: a binary multiplier, a decimal exponent, and the family.
fn read_suffix(suffix: &str) -> Result<(i128, i32, Format), QuantityError> {
    if let Some(step) = DECIMAL_SUFFIXES.iter().position(|known| *known == suffix) {
        return Ok((1, step as i32 * 3 - NANO_DIGITS, Format::DecimalSi));
    }
    if let Some(step) = BINARY_SUFFIXES.iter().position(|known| *known == suffix) {
        return Ok((1 << (10 * step), 0, Format::BinarySi));
    }
    let digits = suffix.strip_prefix(['e', 'E']).ok_or(QuantityError::Suffix)?;
    let exponent = digits.parse::<i32>().map_err(|_| QuantityError::Suffix)?;
    Ok((1, exponent, Format::DecimalExponent))
}

/// A quantity's text, taken apart.
struct Parts<'a> {
    negative: bool,
    whole: &'a str,
    fraction: &'a str,
    suffix: &'a str,
}

impl<'a> Parts<'a> {
    fn split(text: &'a str) -> Result<Parts<'a>, QuantityError> {
        let negative = text.starts_with('-');
        let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
        let (whole, rest) = split_digits(unsigned);
        let (fraction, suffix) = match rest.strip_prefix('.') {
            Some(rest) => split_digits(rest),
            None => ("", rest),
        };
        let letters = suffix.trim_start_matches(|c| "eEinumkKMGTP".contains(c));
        let exponent = letters.strip_prefix(['-', '+']).unwrap_or(letters);
        let well_formed = exponent.bytes().all(|byte| byte.is_ascii_digit());
        if !well_formed || (whole.is_empty() && fraction.is_empty()) {
            return Err(QuantityError::Format);
        }
        Ok(Parts { negative, whole, fraction, suffix })
    }

    /// The amount without its sign.
    fn nanos(
        &self,
        multiplier: i128,
        exponent: i32,
        format: Format,
    ) -> Result<i128, QuantityError> {
        let digits = || self.whole.bytes().chain(self.fraction.bytes());
        if digits().all(|digit| digit == b'0') {
            return Ok(0);
        }
        let too_large = || match format {
            Format::BinarySi => Ok(MAX_BINARY),
            _ => Err(QuantityError::Numeric),
        };
        // Position of the last digit relative to one nano unit: negative means finer than that.
        let scale = i64::from(exponent) + i64::from(NANO_DIGITS) - self.fraction.len() as i64;
        let Some(mantissa) = digits()
            .try_fold(0i128, |sum, d| sum.checked_mul(10)?.checked_add(i128::from(d - b'0')))
            .and_then(|mantissa| mantissa.checked_mul(multiplier))
        else {
            return too_large();
        };
        let power = u32::try_from(scale.unsigned_abs()).ok().and_then(|s| 10i128.checked_pow(s));
        let nanos = match (scale < 0, power) {
            (true, Some(power)) => Some(mantissa / power + i128::from(mantissa % power != 0)),
            // Finer than any power that fits: still rounded up to the smallest amount.
            (true, None) => Some(1),
            (false, Some(power)) => mantissa.checked_mul(power),
            (false, None) => None,
        };
        match nanos {
            Some(nanos) if format == Format::BinarySi => Ok(nanos.min(MAX_BINARY)),
            Some(nanos) => Ok(nanos),
            None => too_large(),
        }
    }
}

fn split_digits(text: &str) -> (&str, &str) {
    let end = text.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(text: &str) -> String {
        Quantity::parse(text).unwrap().to_string()
    }

    #[test]
    fn canonical_text_is_what_go_prints() {
        for (text, expected) in [
            ("0", "0"),
            ("0Ki", "0"),
            ("000", "0"),
            ("+1", "1"),
            ("-1", "-1"),
            ("0.5", "500m"),
            ("1.5", "1500m"),
            ("1.5Gi", "1536Mi"),
            ("1024Mi", "1Gi"),
            ("1023Ki", "1023Ki"),
            ("512", "512"),
            ("1000m", "1"),
            ("100m", "100m"),
            ("1000k", "1M"),
            ("1e3", "1e3"),
            ("1E3", "1e3"),
            ("12e2", "1200"),
            ("1e-3", "1e-3"),
            ("1E", "1E"),
            ("1Ei", "1Ei"),
            ("9Ei", "9223372036854775807"),
            ("0.5Ki", "512"),
            ("0.1Ki", "102400m"),
            (".5", "500m"),
            ("5.", "5"),
            ("0.0000000001", "1n"),
            ("1.1n", "2n"),
            ("-1.1n", "-2n"),
            ("100u", "100u"),
            ("1000000", "1M"),
            ("123450000", "123450k"),
        ] {
            assert_eq!(canonical(text), expected, "{text}");
            assert_eq!(canonical(expected), expected, "{text} is stable");
        }
    }

    #[test]
    fn bad_text_is_refused_with_upstreams_words() {
        for text in ["", "a", "1.2.3", "1 ", "1Mi1x", "--1", "-", ".", "1e+-3", "1é", "1KI"] {
            assert_eq!(Quantity::parse(text).unwrap_err(), QuantityError::Format, "{text:?}");
        }
        for text in ["1ki", "1mm", "1e", "1e+", "1Mi1", "1e99999999999"] {
            let error = Quantity::parse(text).unwrap_err();
            assert!(error == QuantityError::Suffix, "{text:?}: {error}");
        }
        assert_eq!(Quantity::parse("1e40").unwrap_err(), QuantityError::Numeric);
        assert_eq!(Quantity::parse(&"1".repeat(200)).unwrap_err(), QuantityError::Format);
        assert!(
            QuantityError::Format
                .to_string()
                .ends_with("'^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")
        );
    }

    #[test]
    fn rounding_goes_away_from_zero() {
        let quantity = |text: &str| Quantity::parse(text).unwrap();
        assert_eq!(quantity("1m").value(), 1);
        assert_eq!(quantity("-1m").value(), -1);
        assert_eq!(quantity("1500m").value(), 2);
        assert_eq!(quantity("1u").milli(), 1);
        assert_eq!(quantity("2.5").milli(), 2500);
        assert_eq!(quantity("64Mi").value(), 64 << 20);
        assert_eq!(quantity("9Ei").milli(), i64::MAX);
    }

    #[test]
    fn arithmetic_keeps_the_left_format() {
        let quantity = |text: &str| Quantity::parse(text).unwrap();
        assert_eq!((quantity("1Gi") + quantity("1Gi")).to_string(), "2Gi");
        assert_eq!((quantity("0") + quantity("1Gi")).to_string(), "1Gi");
        assert_eq!((quantity("100m") + quantity("1")).to_string(), "1100m");
        assert_eq!((quantity("1") - quantity("100m")).to_string(), "900m");
        assert_eq!((quantity("1") - quantity("2")).to_string(), "-1");
        assert!(quantity("1Ki") > quantity("1k"));
        assert_eq!(quantity("1"), quantity("1000m"));
        assert_eq!([quantity("1"), quantity("500m")].into_iter().sum::<Quantity>().milli(), 1500);
    }

    proptest::proptest! {
        #[test]
        fn any_text_parses_or_fails_without_panic(text in "[-+0-9.eEinumkKMGTP]{0,20}") {
            if let Ok(quantity) = Quantity::parse(&text) {
                let again = Quantity::parse(&quantity.to_string()).unwrap();
                proptest::prop_assert_eq!(again, quantity);
            }
        }
    }
}
