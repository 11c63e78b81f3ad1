//! Reads what cyclictest reports.

use anyhow::{Context, Result, bail};

/// One thread's line of cyclictest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Latency {
    /// Real-time priority.
    pub priority: u32,
    /// Interval in µs.
    pub interval: u32,
    /// Wake-ups measured.
    pub cycles: u64,
    /// Shortest latency in µs.
    pub min: i64,
    /// Mean latency in µs.
    pub average: i64,
    /// Longest latency in µs.
    pub max: i64,
}

/// The result line of a run with one thread:
/// `T: 0 (  123) P:90 I:1000 C:   1000 Min:      5 Act:    9 Avg:   10 Max:      99`.
pub fn parse(text: &str) -> Result<Latency> {
    let lines: Vec<&str> = text.lines().filter(|line| line.trim_start().starts_with("T:")).collect();
    let [.., line] = lines[..] else { bail!("cyclictest reported nothing") };
    let field = |name: &str| -> Result<i64> {
        let rest = line.split_once(name).with_context(|| format!("no {name} in: {line}"))?.1;
        let word = rest.split_whitespace().next().unwrap_or_default();
        word.parse().with_context(|| format!("{name}{word} in: {line}"))
    };
    Ok(Latency {
        priority: field(" P:")?.try_into()?,
        interval: field(" I:")?.try_into()?,
        cycles: field(" C:")?.try_into()?,
        min: field(" Min:")?,
        average: field(" Avg:")?,
        max: field(" Max:")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_line_is_read() {
        let text = "# /dev/cpu_dma_latency set to 0us\n\
                    T: 0 (  123) P:90 I:1000 C:   1000 Min:      5 Act:    9 Avg:   10 Max:      99\n";
        let wanted = Latency { priority: 90, interval: 1000, cycles: 1000, min: 5, average: 10, max: 99 };
        assert_eq!(parse(text).unwrap(), wanted);
    }

    #[test]
    fn no_result_is_an_error() {
        assert!(parse("").is_err());
        assert!(parse("T: 0 ( 1) P: x").is_err());
    }
}
