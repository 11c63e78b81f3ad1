//! The image alone, without Linux and hypervisor.

use std::time::Duration;

use anyhow::Result;

use crate::realm::READY;
use crate::suite::{Bench, Suite, case};

/// Standalone boots.
pub const SUITE: Suite = Suite {
    name: "srtos",
    wanted: None,
    cases: &[
        case("default", |bench| boots(bench, "default", READY)),
        case("minimal", |bench| boots(bench, "minimal", READY)),
        case("kernel", |bench| boots(bench, "selftest", "selftest: all passed")),
    ],
};

const LIMIT: Duration = Duration::from_secs(120);

fn boots(bench: &mut Bench<'_>, manifest: &str, sign: &str) -> Result<()> {
    let mut running = bench.builder.standalone(manifest, "srtos")?.boot()?;
    running.wait_for(sign, LIMIT).map(drop)
}
