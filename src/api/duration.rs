//! Durations as kubectl's tables print them (k8s.io/apimachinery/pkg/util/duration).

/// `5s`, `2m30s`, `47m`, `3h20m`, `3d4h`, `100d`, `2y10d`.
pub fn human(seconds: i64) -> String {
    let (m, h, d) = (60, 3_600, 86_400);
    let two = |n: i64, big: i64, big_unit: &str, small: i64, small_unit: &str| match n % big / small
    {
        0 => format!("{}{big_unit}", n / big),
        rest => format!("{}{big_unit}{rest}{small_unit}", n / big),
    };
    match seconds {
        i64::MIN..=-2 => "<invalid>".into(),
        -1..0 => "0s".into(),
        n if n < 2 * m => format!("{n}s"),
        n if n < 10 * m => two(n, m, "m", 1, "s"),
        n if n < 3 * h => format!("{}m", n / m),
        n if n < 8 * h => two(n, h, "h", m, "m"),
        n if n < 2 * d => format!("{}h", n / h),
        n if n < 8 * d => two(n, d, "d", h, "h"),
        n if n < 2 * 365 * d => format!("{}d", n / d),
        n if n < 8 * 365 * d => two(n, 365 * d, "y", d, "d"),
        n => format!("{}y", n / (365 * d)),
    }
}
