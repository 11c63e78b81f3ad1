//! `./x test`: everything, ending with one line of numbers.

use anyhow::Result;
use tests::suite::{self, Count, selected};
use tests::suites;

use crate::check::{self, Outcome};
use crate::cli;
use crate::laboratory::Laboratory;
use crate::setup;
use crate::tree::{Tree, say};

/// Runs what is selected; status 1 if anything failed.
pub fn run(tree: &Tree, options: cli::Test) -> Result<u8> {
    if options.list {
        list();
        return Ok(0);
    }
    setup::programs()?;
    let mut total = Count::default();
    let mut skipped = 0;

    for check in check::ALL {
        if check.long && !options.long || !selected(&options.filter, check.name) {
            continue;
        }
        say(&format!("{}: {}", check.name, check.what));
        match (check.run)(tree) {
            Ok(Outcome::Counted(count)) => {
                total.passed += count.passed;
                total.failed += count.failed;
                say(&format!("{}: {} passed, {} failed", check.name, count.passed, count.failed));
            }
            Ok(Outcome::Skipped(why)) => {
                skipped += 1;
                say(&format!("{}: skipped: {why}", check.name));
            }
            Err(error) => {
                total.failed += 1;
                say(&format!("{}: FAILED\n{error:#}", check.name));
            }
        }
    }

    let jailhouse = options.jailhouse.map(std::path::absolute).transpose()?;
    let laboratory = Laboratory { tree, jailhouse: jailhouse.as_deref() };
    let with_jailhouse = jailhouse.is_some().then_some(&suites::jailhouse::SUITE);
    for suite in suites::ALL.iter().copied().chain(with_jailhouse) {
        match suite::run(&laboratory, suite, &options.filter, options.long) {
            Ok(count) => {
                total.passed += count.passed;
                total.failed += count.failed;
            }
            Err(error) => {
                total.failed += 1;
                say(&format!("suite {} cannot run: {error:#}", suite.name));
            }
        }
    }
    let skipped = if skipped > 0 { format!(", {skipped} skipped") } else { String::new() };
    println!("{} passed, {} failed{skipped}", total.passed, total.failed);
    Ok(u8::from(total.failed > 0))
}

fn list() {
    for check in check::ALL {
        println!("{}{}", check.name, if check.long { " (long)" } else { "" });
    }
    for suite in suites::ALL {
        for case in suite.cases {
            println!("{}::{}{}", suite.name, case.name, if case.long { " (long)" } else { "" });
        }
    }
}
