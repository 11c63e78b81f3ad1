//! What several suites need.

use anyhow::{Result, bail};

use crate::random::Random;
use crate::suite::{Bench, said};

/// Fails unless `got` is `wanted`.
pub fn same<T: PartialEq + std::fmt::Debug>(what: &str, got: T, wanted: T) -> Result<()> {
    if got != wanted {
        bail!("{what}: {got:?} instead of {wanted:?}");
    }
    Ok(())
}

/// Bytes without a pattern, the same in every run.
pub fn noise(length: usize) -> Vec<u8> {
    let mut random = Random::new(0x9e37_79b9_7f4a_7c15);
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend_from_slice(&random.word().to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Runs `argv` in the real-time realm.
pub fn crtos_run(bench: &mut Bench<'_>, argv: &[&str], input: &[u8]) -> Result<crate::vm::Output> {
    let mut all = vec!["crtos", "run"];
    all.extend(argv);
    bench.run(&all, input)
}

/// Counters of what programs take: slots, processes, pages.
pub fn in_use(bench: &mut Bench<'_>) -> Result<Vec<String>> {
    const NAMES: [&str; 8] = [
        "shadow.slots ",
        "shadow.processes ",
        "shadow.pages_mapped ",
        "shadow.pages_pinned ",
        "realtime.pool_free ",
        "realtime.pool_quarantine ",
        "realtime.mirror_nodes ",
        "realtime.processes ",
    ];
    let stats = bench.ok("crtos cell stats")?;
    let lines: Vec<String> =
        stats.lines().filter(|line| NAMES.iter().any(|name| line.starts_with(name))).map(str::to_owned).collect();
    if lines.len() != NAMES.len() {
        bail!("crtos cell stats lacks some of {NAMES:?}:\n{stats}");
    }
    Ok(lines)
}

/// Runs `argv` in Linux and in the real-time realm: output, messages and status must be the same.
pub fn as_native(bench: &mut Bench<'_>, argv: &[&str], input: &[u8]) -> Result<()> {
    let native = bench.run(argv, input)?;
    let ours = crtos_run(bench, argv, input)?;
    if ours.status != native.status {
        bail!("{argv:?}: status {} instead of {}\n{}", ours.status, native.status, said(&ours));
    }
    if ours.stdout != native.stdout {
        bail!("{argv:?}: other output than natively\nnative {}\nours {}", said(&native), said(&ours));
    }
    if ours.stderr != native.stderr {
        bail!("{argv:?}: other messages than natively\nnative {}\nours {}", said(&native), said(&ours));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_has_its_length_and_repeats() {
        assert_eq!(noise(1001).len(), 1001);
        assert_eq!(noise(64), noise(64));
        assert_ne!(noise(64)[..32], noise(64)[32..]);
    }
}
